// Vectors of floats in the compiler's vector extension, and loads and stores for every storage type.
//
// A file that includes this is compiled once for each instruction set, with MOCE_ISA the name of a
// namespace and MOCE_LANES the widest vector. Everything here lies in that namespace: two copies of
// a function compiled for different instruction sets must never be merged by the linker. For the
// same reason nothing of the C++ library is used but types and constants.
#pragma once

#include <cstdint>

#include "moce/types.h"
#include "moce/unroll.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define MOCE_NOINLINE __attribute__((noinline))

#ifndef MOCE_LANES
#define MOCE_LANES 4
#endif

namespace moce {
inline namespace MOCE_ISA {

// Registers for vectors: what the blocks of sums that kernels keep are sized for.
#if defined(__AVX512F__) || defined(__aarch64__) || defined(MOCE_EMULATED)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <int W>
struct VecTypes;
template <>
struct VecTypes<4> {
  typedef float f32 __attribute__((vector_size(16)));
  typedef double f64 __attribute__((vector_size(32)));
  typedef uint32_t u32 __attribute__((vector_size(16)));
  typedef uint16_t u16 __attribute__((vector_size(8)));
};
template <>
struct VecTypes<8> {
  typedef float f32 __attribute__((vector_size(32)));
  typedef double f64 __attribute__((vector_size(64)));
  typedef uint32_t u32 __attribute__((vector_size(32)));
  typedef uint16_t u16 __attribute__((vector_size(16)));
};
template <>
struct VecTypes<16> {
  typedef float f32 __attribute__((vector_size(64)));
  typedef uint32_t u32 __attribute__((vector_size(64)));
  typedef uint16_t u16 __attribute__((vector_size(32)));
};

template <int W>
using Vec = typename VecTypes<W>::f32;
template <int W>  // up to 8
using VecF64 = typename VecTypes<W>::f64;
template <int W>
using VecU32 = typename VecTypes<W>::u32;
template <int W>
using VecU16 = typename VecTypes<W>::u16;

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// Channels up to whole vectors.
template <int W>
MOCE_INLINE int64_t whole(int64_t channels) {
  return (channels + W - 1) / W * W;
}

// f(T()) for the element type T.
template <class F>
MOCE_INLINE auto with_type(Type type, F&& f) {
  switch (type) {
    case Type::kBFloat16: return f(BFloat16{});
    case Type::kHalf: return f(Half{});
    default: return f(float{});
  }
}

template <int W>
MOCE_INLINE Vec<W> splat(float x) {
  return x - Vec<W>{};
}

template <class To, class From>
MOCE_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

template <int W>
MOCE_INLINE Vec<W> select(VecU32<W> mask, Vec<W> yes, Vec<W> no) {
  return bit_cast<Vec<W>>((bit_cast<VecU32<W>>(yes) & mask) | (bit_cast<VecU32<W>>(no) & ~mask));
}

// float32 from and to bfloat16 and float16, rounding to nearest even; NaN stays NaN. Where the
// processor rounds to bfloat16 itself, numbers below 2^-126 become 0.

template <int W>
MOCE_INLINE Vec<W> widen(VecU16<W> bits, BFloat16) {
  return bit_cast<Vec<W>>(__builtin_convertvector(bits, VecU32<W>) << 16);
}

template <int W>
MOCE_INLINE VecU16<W> narrow(Vec<W> x, BFloat16) {
#if defined(__AVX512BF16__)
  if constexpr (W == 16) return bit_cast<VecU16<W>>(_mm512_cvtneps_pbh((__m512)x));
#endif
  const VecU32<W> bits = bit_cast<VecU32<W>>(x);
  const VecU32<W> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const VecU32<W> nan = bits | 0x400000u;  // quiet, and the mantissa's upper half not zero
  const VecU32<W> is_nan = bit_cast<VecU32<W>>(x != x);
  return __builtin_convertvector(((rounded & ~is_nan) | (nan & is_nan)) >> 16, VecU16<W>);
}

template <int W>
MOCE_INLINE Vec<W> widen(VecU16<W> half, Half) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<W>)_mm512_cvtph_ps((__m256i)half);
#endif
#if defined(__F16C__)
  if constexpr (W == 8) return (Vec<W>)_mm256_cvtph_ps((__m128i)half);
#endif
#if defined(__ARM_NEON)
  if constexpr (W == 4) return (Vec<W>)vcvt_f32_f16((float16x4_t)half);
#endif
  // Shift exponent and mantissa into place and let a multiplication fix the exponent's bias;
  // subnormal halves come out of a subtraction instead.
  const VecU32<W> w = __builtin_convertvector(half, VecU32<W>) << 16;
  const VecU32<W> twice = w + w;
  const Vec<W> normal = bit_cast<Vec<W>>((twice >> 4) + (0xe0u << 23)) * 0x1p-112f;
  const Vec<W> subnormal = bit_cast<Vec<W>>((twice >> 17) | (126u << 23)) - 0.5f;
  const VecU32<W> is_subnormal = bit_cast<VecU32<W>>(twice < (1u << 27));
  const Vec<W> magnitude = select<W>(is_subnormal, subnormal, normal);
  return bit_cast<Vec<W>>(bit_cast<VecU32<W>>(magnitude) | (w & 0x80000000u));
}

template <int W>
MOCE_INLINE VecU16<W> narrow(Vec<W> x, Half) {
#if defined(__AVX512F__)
  if constexpr (W == 16)
    return (VecU16<W>)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
#if defined(__F16C__)
  if constexpr (W == 8)
    return (VecU16<W>)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
#if defined(__ARM_NEON)
  if constexpr (W == 4) return (VecU16<W>)vcvt_f16_f32((float32x4_t)x);
#endif
  // Adding a power of two chosen by the exponent makes float arithmetic itself round to 11 bits.
  const VecU32<W> bits = bit_cast<VecU32<W>>(x);
  const VecU32<W> sign = bits & 0x80000000u;
  const VecU32<W> twice = bits + bits;
  Vec<W> base = bit_cast<Vec<W>>(bits & 0x7fffffffu) * 0x1p112f * 0x1p-110f;
  VecU32<W> bias = twice & 0xff000000u;
  const VecU32<W> tiny = bit_cast<VecU32<W>>(bias < 0x71000000u);
  bias = (bias & ~tiny) | (tiny & 0x71000000u);
  base = bit_cast<Vec<W>>((bias >> 1) + 0x07800000u) + base;
  const VecU32<W> rounded = bit_cast<VecU32<W>>(base);
  const VecU32<W> magnitude = ((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu);
  const VecU32<W> is_nan = bit_cast<VecU32<W>>(twice > 0xff000000u);
  return __builtin_convertvector((sign >> 16) | (magnitude & ~is_nan) | (is_nan & 0x7e00u),
                                 VecU16<W>);
}

// On NEON loads and stores are intrinsics: GCC copies 16 bytes as an integer, for which it takes
// vectors apart and keeps them in memory.
template <int W, class T>
MOCE_INLINE Vec<W> load(const T* p) {
#if defined(__ARM_NEON)
  if constexpr (W == 4 && sizeof(T) == 4) return (Vec<W>)vld1q_f32(p);
  if constexpr (W == 4 && sizeof(T) == 2)
    return widen<W>((VecU16<W>)vld1_u16(reinterpret_cast<const uint16_t*>(p)), T{});
#endif
  if constexpr (sizeof(T) == 4) {
    Vec<W> x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  } else {
    VecU16<W> x;
    __builtin_memcpy(&x, p, sizeof x);
    return widen<W>(x, T{});
  }
}

template <int W, class T>
MOCE_INLINE void store(T* p, Vec<W> x) {
#if defined(__ARM_NEON)
  if constexpr (W == 4 && sizeof(T) == 4) return vst1q_f32(p, (float32x4_t)x);
  if constexpr (W == 4 && sizeof(T) == 2)
    return vst1_u16(reinterpret_cast<uint16_t*>(p), (uint16x4_t)narrow<W>(x, T{}));
#endif
  if constexpr (sizeof(T) == 4) {
    __builtin_memcpy(p, &x, sizeof x);
  } else {
    const VecU16<W> bits = narrow<W>(x, T{});
    __builtin_memcpy(p, &bits, sizeof bits);
  }
}

// The first n <= W elements alone: nothing beyond them is read or written; absent lanes load as 0.
template <int W, class T>
MOCE_INLINE Vec<W> load_first(const T* p, int n) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  const unsigned mask = (1u << n) - 1u;
  if constexpr (sizeof(T) == 4) {
    if constexpr (W == 16) return (Vec<W>)_mm512_maskz_loadu_ps((__mmask16)mask, p);
    if constexpr (W == 8) return (Vec<W>)_mm256_maskz_loadu_ps((__mmask8)mask, p);
    if constexpr (W == 4) return (Vec<W>)_mm_maskz_loadu_ps((__mmask8)mask, p);
  }
#elif defined(__ARM_NEON)
  // Lane by lane: a loop over memory becomes a call of memcpy.
  if constexpr (sizeof(T) == 4) {
    Vec<W> x{};
    unroll<W>([&](auto i) MOCE_INLINE_LAMBDA { if (i.value < n) x[i.value] = p[i.value]; });
    return x;
  } else {
    VecU16<W> x{};
    unroll<W>([&](auto i) MOCE_INLINE_LAMBDA { if (i.value < n) x[i.value] = p[i.value].bits; });
    return widen<W>(x, T{});
  }
#endif
  T few[W] = {};
  for (int i = 0; i < n; i++) few[i] = p[i];
  return load<W>(few);
}
template <int W, class T>
MOCE_INLINE void store_first(T* p, Vec<W> x, int n) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  const unsigned mask = (1u << n) - 1u;
  if constexpr (sizeof(T) == 4) {
    if constexpr (W == 16) return _mm512_mask_storeu_ps(p, (__mmask16)mask, (__m512)x);
    if constexpr (W == 8) return _mm256_mask_storeu_ps(p, (__mmask8)mask, (__m256)x);
    if constexpr (W == 4) return _mm_mask_storeu_ps(p, (__mmask8)mask, (__m128)x);
  }
#elif defined(__ARM_NEON)
  if constexpr (sizeof(T) == 4) {
    unroll<W>([&](auto i) MOCE_INLINE_LAMBDA { if (i.value < n) p[i.value] = x[i.value]; });
  } else {
    const VecU16<W> bits = narrow<W>(x, T{});
    unroll<W>([&](auto i) MOCE_INLINE_LAMBDA { if (i.value < n) p[i.value].bits = bits[i.value]; });
  }
  return;
#endif
  T few[W];
  store<W>(few, x);
  for (int i = 0; i < n; i++) __builtin_memcpy(p + i, few + i, sizeof few[i]);
}

// a_f b_f a_{f+1} b_{f+1} ..., f = First: of the lower halves for 0, of the upper for W / 2.
template <int W, int First, int... I>
MOCE_INLINE Vec<W> interleave(Vec<W> a, Vec<W> b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (First + I / 2 + (I % 2) * W)...);
#else
  constexpr VecU32<W> from = {(First + I / 2 + (I % 2) * W)...};
  return __builtin_shuffle(a, b, from);
#endif
}

// Transposes a W x W matrix of which x holds the rows.
template <int W>
MOCE_INLINE void transpose(Vec<W> (&x)[W]) {
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  for (int step = 1; step < W; step *= 2) {
    Vec<W> y[W];
    for (int i = 0; i < W / 2; i++) {
      y[2 * i] = interleave<W, 0>(x[i], x[i + W / 2], lanes);
      y[2 * i + 1] = interleave<W, W / 2>(x[i], x[i + W / 2], lanes);
    }
    for (int i = 0; i < W; i++) x[i] = y[i];
  }
}

// Lane i of the result is 1 for i < n, else 0.
template <int W>
MOCE_INLINE Vec<W> first_lanes(int n) {
  Vec<W> x;
  for (int i = 0; i < W; i++) x[i] = i < n ? 1.f : 0.f;
  return x;
}

// Lane i of the result is the sum of the lanes of x[i]: a transposition that adds as it goes.
template <int W>
MOCE_INLINE Vec<W> sum_each(const Vec<W> (&x)[W]) {
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  Vec<W> y[W];
  for (int i = 0; i < W; i++) y[i] = x[i];
  for (int n = W / 2; n >= 1; n /= 2)
    for (int i = 0; i < n; i++)
      y[i] = interleave<W, 0>(y[i], y[i + n], lanes) + interleave<W, W / 2>(y[i], y[i + n], lanes);
  return y[0];
}

}  // namespace MOCE_ISA
}  // namespace moce
