// Loops over compile-time integers, and the macros of templates that CPUs and GPUs share.
#pragma once

#include <utility>

#ifndef MOCE_ISA
#define MOCE_ISA baseline
#endif

#ifdef __CUDACC__
#define MOCE_INLINE __host__ __device__ __forceinline__
#define MOCE_INLINE_LAMBDA
#else
#define MOCE_INLINE __attribute__((always_inline)) inline
#define MOCE_INLINE_LAMBDA __attribute__((always_inline))
#endif

namespace moce {
inline namespace MOCE_ISA {

// A compile-time integer that can be passed as an argument, and loops over them.
template <int I>
struct Int {
  static constexpr int value = I;
};

template <class F, int... I>
MOCE_INLINE void unroll(std::integer_sequence<int, I...>, F&& f) {
  (f(Int<I>{}), ...);
}
template <int N, class F>
MOCE_INLINE void unroll(F&& f) {
  unroll(std::make_integer_sequence<int, N>{}, f);
}

}  // namespace MOCE_ISA
}  // namespace moce
