// GELU x Phi(x), Phi the normal distribution function, and its derivative.
#pragma once

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

// Phi(-|x|) and exp(-x^2 / 2). With z = |x| / sqrt 2 and t = 1 / (1 + 0.38 z), erfc(z) is
// t exp(-z^2) times a polynomial in t; fitted to a relative error of 2e-8, 3e-7 in float32. From
// 12.99 on both are zero: float32 has no normal numbers there, and others are many times slower.
template <int W>
MOCE_INLINE Vec<W> normal_tail(Vec<W> x, Vec<W>& bell) {
  const Vec<W> largest = splat<W>(12.99f);
  Vec<W> magnitude = bit_cast<Vec<W>>(bit_cast<VecU32<W>>(x) & 0x7fffffffu);
  const VecU32<W> beyond = bit_cast<VecU32<W>>(magnitude > largest);
  magnitude = magnitude > largest ? largest : magnitude;
  // exp(-x^2 / 2) = 2^n 2^f; adding 3 * 2^22 leaves the nearest integer in the low bits.
  const Vec<W> square = magnitude * magnitude;
  const Vec<W> shifted = square * -0.721347511f + 12582912.f;
  const Vec<W> f = square * -0.721347511f - (shifted - 12582912.f);
  Vec<W> e = splat<W>(1.53533372e-4f);
  e = e * f + 1.33988750e-3f;
  e = e * f + 9.61843785e-3f;
  e = e * f + 5.55033237e-2f;
  e = e * f + 2.40226477e-1f;
  e = e * f + 6.93147182e-1f;
  e = e * f + 1.f;
  const VecU32<W> power = ((bit_cast<VecU32<W>>(shifted) << 23) + 0x3f800000u) & ~beyond;
  bell = e * bit_cast<Vec<W>>(power);
  const Vec<W> t = 1.f / (1.f + 0.268700577f * magnitude);
  Vec<W> p = splat<W>(0.0589622632f);
  p = p * t - 0.262257397f;
  p = p * t + 0.36380893f;
  p = p * t - 0.161394149f;
  p = p * t + 0.229976028f;
  p = p * t + 0.138672888f;
  p = p * t + 0.203900233f;
  p = p * t + 0.213920295f;
  p = p * t + 0.214410901f;
  return 0.5f * (p * t) * bell;
}

template <int W>
MOCE_INLINE Vec<W> normal_distribution(Vec<W> x, Vec<W>& bell) {
  const Vec<W> tail = normal_tail<W>(x, bell);
  return x > 0.f ? 1.f - tail : tail;
}

template <int W>
MOCE_INLINE Vec<W> gelu(Vec<W> x) {
  Vec<W> bell;
  return x * normal_distribution<W>(x, bell);
}

// GELU and its derivative Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
template <int W>
MOCE_INLINE Vec<W> gelu(Vec<W> x, Vec<W>& slope) {
  Vec<W> bell;
  const Vec<W> phi = normal_distribution<W>(x, bell);
  slope = phi + x * bell * 0.398942280f;
  return x * phi;
}

}  // namespace MOCE_ISA
}  // namespace moce
