// GELU x Phi(x), Phi the normal distribution function, and its derivative, as precisely as tensors
// of type T need them.
#pragma once

#include "vector_math.h"

namespace moce {
inline namespace MOCE_ISA {

// c[0] + c[1] x + c[2] x^2 + ...
template <int W, int N>
MOCE_INLINE Vec<W> polynomial(const float (&c)[N], Vec<W> x) {
  Vec<W> p = splat<W>(c[N - 1]);
  unroll<N - 1>([&](auto i) MOCE_INLINE_LAMBDA { p = p * x + c[N - 2 - decltype(i)::value]; });
  return p;
}

// What normal_tail approximates for tensors of type T.
template <class T>
struct TailFit {  // erfc to a relative error of 2e-8, 3e-7 in float32
  static constexpr float kSlope = 0.268700577f;
  static constexpr float kTail[] = {0.1072054505f, 0.1069601475f,  0.1019501165f,
                                    0.069336444f,  0.114988014f,   -0.0806970745f,
                                    0.181904465f,  -0.1311286985f, 0.0294811316f};
  static constexpr float kPower[] = {1.f,           6.93147182e-1f, 2.40226477e-1f, 5.55033237e-2f,
                                     9.61843785e-3f, 1.33988750e-3f, 1.53533372e-4f};
};
template <>
struct TailFit<BFloat16> {  // to 3e-4, a sixth of what rounding to bfloat16 does
  static constexpr float kSlope = 0.3f;
  static constexpr float kTail[] = {0.118204618f, 0.137476658f, 0.0355907380f, 0.208842944f};
  static constexpr float kPower[] = {0.999928074f, 0.693261079f, 0.242611198f, 0.0551710105f};
};

// Phi(-|x|) and exp(-x^2 / 2): the tail is t exp(-x^2 / 2) times a polynomial in t = 1 / (1 + s |x|).
// From 12.99 on both are zero: float32 has no normal numbers there, and others are many times slower.
template <int W, class T>
MOCE_INLINE Vec<W> normal_tail(Vec<W> x, Vec<W>& bell) {
  using Fit = TailFit<T>;
  const Vec<W> largest = splat<W>(12.99f);
  Vec<W> magnitude = bit_cast<Vec<W>>(bit_cast<VecU32<W>>(x) & 0x7fffffffu);
  const VecU32<W> beyond = bit_cast<VecU32<W>>(magnitude > largest);
  magnitude = magnitude > largest ? largest : magnitude;
  // exp(-x^2 / 2) = 2^n 2^f; adding 3 * 2^22 leaves the nearest integer in the low bits.
  const Vec<W> square = magnitude * magnitude;
  const Vec<W> shifted = square * -0.721347511f + 12582912.f;
  const Vec<W> f = square * -0.721347511f - (shifted - 12582912.f);
  const VecU32<W> power = ((bit_cast<VecU32<W>>(shifted) << 23) + 0x3f800000u) & ~beyond;
  bell = polynomial<W>(Fit::kPower, f) * bit_cast<Vec<W>>(power);
  const Vec<W> t = reciprocal<W, T>(1.f + Fit::kSlope * magnitude);
  return polynomial<W>(Fit::kTail, t) * t * bell;
}

template <int W, class T>
MOCE_INLINE Vec<W> normal_distribution(Vec<W> x, Vec<W>& bell) {
  const Vec<W> tail = normal_tail<W, T>(x, bell);
  return x > 0.f ? 1.f - tail : tail;
}

template <int W, class T = float>
MOCE_INLINE Vec<W> gelu(Vec<W> x) {
  Vec<W> bell;
  return x * normal_distribution<W, T>(x, bell);
}

// GELU and its derivative Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
template <int W, class T = float>
MOCE_INLINE Vec<W> gelu(Vec<W> x, Vec<W>& slope) {
  Vec<W> bell;
  const Vec<W> phi = normal_distribution<W, T>(x, bell);
  slope = phi + x * bell * 0.398942280f;
  return x * phi;
}

}  // namespace MOCE_ISA
}  // namespace moce
