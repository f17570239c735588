// Normalisation of pixels over their channels, and its gradient, W pixels at a time.
#pragma once

#include "vector_math.h"

namespace moce {
inline namespace MOCE_ISA {

// The sum over channels of f(pixel, first channel) for W pixels, one in each lane. f sees `count`
// pixels, the last one in the place of those beyond it.
template <int W, class F>
MOCE_INLINE Vec<W> sums_over_channels(int64_t Cp, int count, F&& f) {
  Vec<W> sum[W];
  for (int i = 0; i < W; i++) {
    const int p = i < count ? i : count - 1;
    sum[i] = Vec<W>{};
    for (int64_t c = 0; c < Cp; c += W) sum[i] += f(p, c);
  }
  return sum_each<W>(sum);
}

// to[p][c] = (x[p][c] - mean) rstd, zeros from C up to whole vectors, as x has; rstd[p] for the
// gradient.
template <int W, class X, class To>
MOCE_NOINLINE void normalise(const X* x, int64_t pixel, int64_t C, float eps, int count, To* to,
                             int64_t to_pixel, float* rstd) {
  const int64_t Cp = whole<W>(C);
  const int last = int(C - (Cp - W));
  const Vec<W> inside = first_lanes<W>(last);
  for (int p0 = 0; p0 < count; p0 += W) {
    const int n = count - p0 < W ? count - p0 : W;
    const X* from = x + p0 * pixel;
    const Vec<W> mean = sums_over_channels<W>(Cp, n, [&](int p, int64_t c) MOCE_INLINE_LAMBDA {
                          return load<W>(from + p * pixel + c);
                        }) / float(C);
    float means[W], scales[W];
    store<W>(means, mean);
    const Vec<W> square = sums_over_channels<W>(Cp, n, [&](int p, int64_t c) MOCE_INLINE_LAMBDA {
      Vec<W> d = load<W>(from + p * pixel + c) - means[p];
      if (c == Cp - W) d *= inside;
      return d * d;
    });
    store<W>(scales, 1.f / sqrt<W>(square / float(C) + eps));
    for (int p = 0; p < n; p++) {
      rstd[p0 + p] = scales[p];
      for (int64_t c = 0; c < Cp; c += W) {
        Vec<W> d = (load<W>(from + p * pixel + c) - means[p]) * scales[p];
        if (c == Cp - W) d *= inside;
        store<W>(to + (p0 + p) * to_pixel + c, d);
      }
    }
  }
}

// dx = rstd (d - mean(d) - normed mean(d normed)) for d (count, Cp), the gradient of normed, both
// with zeros from C on; dx may be d. `plus`, where it is not null, is added.
template <int W, class Normed>
MOCE_NOINLINE void normalise_gradient(const float* d, const Normed* normed, int64_t normed_pixel,
                                      const float* rstd, int64_t C, int count, float* dx,
                                      int64_t dx_pixel,
                                      const float* plus = nullptr, int64_t plus_pixel = 0) {
  const int64_t Cp = whole<W>(C);
  for (int p0 = 0; p0 < count; p0 += W) {
    const int n = count - p0 < W ? count - p0 : W;
    const float* g = d + p0 * Cp;
    const Normed* y = normed + p0 * normed_pixel;
    const Vec<W> mean = sums_over_channels<W>(Cp, n, [&](int p, int64_t c) MOCE_INLINE_LAMBDA {
                          return load<W>(g + p * Cp + c);
                        }) / float(C);
    const Vec<W> slope = sums_over_channels<W>(Cp, n, [&](int p, int64_t c) MOCE_INLINE_LAMBDA {
                           return load<W>(g + p * Cp + c) * load<W>(y + p * normed_pixel + c);
                         }) / float(C);
    float means[W], slopes[W];
    store<W>(means, mean);
    store<W>(slopes, slope);
    for (int p = 0; p < n; p++)
      for (int64_t c = 0; c < Cp; c += W) {
        const Vec<W> own_normed = load<W>(y + p * normed_pixel + c);
        Vec<W> own =
            (load<W>(g + p * Cp + c) - means[p] - own_normed * slopes[p]) * rstd[p0 + p];
        if (plus) own += load<W>(plus + (p0 + p) * plus_pixel + c);
        store<W>(dx + (p0 + p) * dx_pixel + c, own);
      }
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
