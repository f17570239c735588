// Functions of vectors of floats.
#pragma once

#include <type_traits>

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W>
MOCE_INLINE Vec<W> sqrt(Vec<W> x) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<W>)_mm512_sqrt_ps((__m512)x);
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) return (Vec<W>)_mm256_sqrt_ps((__m256)x);
  if constexpr (W == 4) return (Vec<W>)_mm_sqrt_ps((__m128)x);
#endif
#if defined(__ARM_NEON)
  if constexpr (W == 4) return (Vec<W>)vsqrtq_f32((float32x4_t)x);
#endif
  for (int i = 0; i < W; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

// 1 / x for positive normal x, to about 2^-14 for T = BFloat16 where that is faster.
template <int W, class T>
MOCE_INLINE Vec<W> reciprocal(Vec<W> x) {
#if defined(__AVX512F__)
  if constexpr (W == 16 && std::is_same_v<T, BFloat16>) return (Vec<W>)_mm512_rcp14_ps((__m512)x);
#endif
  return 1.f / x;
}

// exp(x) to 2 ulp for |x| <= 87; beyond, as at the ends.
template <int W>
MOCE_INLINE Vec<W> exp(Vec<W> x) {
  const Vec<W> limit = splat<W>(87.f);
  x = select<W>(bit_cast<VecU32<W>>(x > limit), limit, x);
  x = select<W>(bit_cast<VecU32<W>>(x < -limit), -limit, x);
  // Adding 3 * 2^22 leaves the nearest integer n to x / ln 2 in the low bits.
  const Vec<W> shifted = x * 1.44269504088896341f + 12582912.f;
  const Vec<W> n = shifted - 12582912.f;
  const Vec<W> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<W> p = splat<W>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const VecU32<W> power = (bit_cast<VecU32<W>>(shifted) << 23) + 0x3f800000u;
  return p * bit_cast<Vec<W>>(power);
}

template <int W>
MOCE_INLINE Vec<W> sigmoid(Vec<W> x) {
  return 1.f / (1.f + exp<W>(-x));
}

}  // namespace MOCE_ISA
}  // namespace moce
