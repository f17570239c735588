// GELU x Phi(x), Phi the normal distribution function, and its derivative.
#pragma once

#include "linear.h"

namespace moce {
inline namespace MOCE_ISA {

// 1/2 + x P(x^2) / Q(x^2), fitted to 1e-8 for |x| <= 5.6, where Phi is within as much of 0 or 1;
// 2e-7 in float32.
template <int W>
MOCE_INLINE Vec<W> normal_distribution(Vec<W> x) {
  const Vec<W> limit = splat<W>(5.6f);
  Vec<W> c = x > limit ? limit : x;
  c = c < -limit ? -limit : c;
  const Vec<W> u = c * c;
  Vec<W> p = 2.21457037e-8f * u + 6.35632752e-6f;
  Vec<W> q = 1.18020814e-6f * u + 7.50967098e-5f;
  p = p * u + 1.73836248e-4f;
  q = q * u + 1.91289734e-3f;
  p = p * u + 4.7071713e-3f;
  q = q * u + 2.89393175e-2f;
  p = p * u + 3.43747978e-2f;
  q = q * u + 2.52830555e-1f;
  p = p * u + 3.98942222e-1f;
  q = q * u + 1.f;
  const Vec<W> phi = 0.5f + c * p / q;
  return x < -limit ? Vec<W>{} : phi;  // its error times any x would be large
}

template <int W>
MOCE_INLINE Vec<W> gelu(Vec<W> x) {
  return x * normal_distribution<W>(x);
}

// GELU and its derivative Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi).
template <int W>
MOCE_INLINE Vec<W> gelu(Vec<W> x, Vec<W>& slope) {
  const Vec<W> phi = normal_distribution<W>(x);
  slope = phi + x * exp<W>(-0.5f * x * x) * 0.398942280f;
  return x * phi;
}

}  // namespace MOCE_ISA
}  // namespace moce
