// Neighbouring elements that are loaded and stored at once, and their conversion to floats.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "moce/unroll.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// What one instruction moves.
template <int Bytes>
using Word = std::conditional_t<
    Bytes == 16, uint4,
    std::conditional_t<Bytes == 8, uint2,
                       std::conditional_t<Bytes == 4, unsigned, unsigned short>>>;

// N neighbouring elements as they lie in memory: in whole registers, which elements of 16 bits would
// have one each of.
template <class T, int N>
struct Packed {
  Word<int{sizeof(T)} * N> word;
};

// Of memory that the kernel does not write, and of any.
template <class T, int N>
__device__ Packed<T, N> load_packed(const T* p) {
  return {__ldg(reinterpret_cast<const Word<int{sizeof(T)} * N>*>(p))};
}
template <class T, int N>
__device__ Packed<T, N> get_packed(const T* p) {
  return {*reinterpret_cast<const Word<int{sizeof(T)} * N>*>(p)};
}

template <class T, int N>
__device__ void unpack(const Packed<T, N>& from, float (&to)[N]) {
#ifndef MOCE_EMULATED
  if constexpr (std::is_same_v<T, BFloat16> && N % 2 == 0) {
    unsigned words[N / 2];  // one instruction for each element
    __builtin_memcpy(words, &from.word, sizeof words);
    unroll<N / 2>([&](auto i) {
      constexpr int k = decltype(i)::value;
      to[2 * k] = __uint_as_float(words[k] << 16);
      to[2 * k + 1] = __uint_as_float(words[k] & 0xffff0000u);
    });
    return;
  }
#endif
  T elements[N];
  __builtin_memcpy(elements, &from.word, sizeof elements);
  unroll<N>([&](auto i) { to[i.value] = static_cast<float>(elements[i.value]); });
}

template <int N>
struct Floats {
  float v[N];
};
template <int N>
__device__ Floats<N> get_floats(const float* p) {
  Floats<N> floats;
  unpack<float, N>(get_packed<float, N>(p), floats.v);
  return floats;
}

template <class T, int N>
__device__ Packed<T, N> pack(const float (&from)[N]) {
  Packed<T, N> packed;
#ifndef MOCE_EMULATED
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    using Two = std::conditional_t<std::is_same_v<T, BFloat16>, __nv_bfloat162, __half2>;
    Two pairs[N / 2];
    unroll<N / 2>([&](auto i) {
      constexpr int k = decltype(i)::value;
      if constexpr (std::is_same_v<T, BFloat16>)
        pairs[k] = __floats2bfloat162_rn(from[2 * k], from[2 * k + 1]);
      else
        pairs[k] = __floats2half2_rn(from[2 * k], from[2 * k + 1]);
    });
    __builtin_memcpy(&packed.word, pairs, sizeof pairs);
    return packed;
  }
#endif
  T elements[N];
  unroll<N>([&](auto i) { elements[i.value] = static_cast<T>(from[i.value]); });
  __builtin_memcpy(&packed.word, elements, sizeof elements);
  return packed;
}
// To global memory. The compiler would store word by word where it loses sight of the alignment.
template <class T, int N>
__device__ void put_packed(T* p, const Packed<T, N>& packed) {
#ifndef MOCE_EMULATED
  if constexpr (sizeof packed == 8) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(packed.word.x), "r"(packed.word.y)
                 : "memory");
    return;
  }
  if constexpr (sizeof packed == 16) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(packed.word.x), "r"(packed.word.y), "r"(packed.word.z), "r"(packed.word.w)
                 : "memory");
    return;
  }
#endif
  *reinterpret_cast<Word<int{sizeof(T)} * N>*>(p) = packed.word;
}
template <class T, int N>
__device__ void store_packed(T* p, const float (&from)[N]) {
  put_packed<T, N>(p, pack<T, N>(from));
}
// To shared memory.
__device__ inline void put_floats(float* p, const float (&from)[2]) {
#ifdef MOCE_EMULATED
  emulated_aligned(p, sizeof from);
  __builtin_memcpy(p, from, sizeof from);
#else
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(p))),
               "f"(from[0]), "f"(from[1])
               : "memory");
#endif
}
__device__ inline void put_floats(float* p, const float (&from)[4]) {
#ifdef MOCE_EMULATED
  emulated_aligned(p, sizeof from);
  __builtin_memcpy(p, from, sizeof from);
#else
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(p))),
               "f"(from[0]), "f"(from[1]), "f"(from[2]), "f"(from[3])
               : "memory");
#endif
}

// Two numbers side by side, such as those of two channels: arithmetic is done on each.
struct Pair {
  float a, b;
};
MOCE_INLINE Pair operator+(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
MOCE_INLINE Pair operator-(Pair x, Pair y) { return {x.a - y.a, x.b - y.b}; }
MOCE_INLINE Pair operator-(Pair x) { return {-x.a, -x.b}; }
MOCE_INLINE Pair operator*(Pair x, Pair y) { return {x.a * y.a, x.b * y.b}; }
MOCE_INLINE Pair operator*(Pair x, float y) { return {x.a * y, x.b * y}; }
MOCE_INLINE Pair operator*(float x, Pair y) { return y * x; }

}  // namespace moce
#endif
