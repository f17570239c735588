// Depthwise K x K convolution of one row of a float plane whose channels are adjacent and which has a
// margin around the image, and the gradients of its weight and bias.
#pragma once

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kDepthwisePixels = 8;  // computed together

// `in` is the upper left corner of the first pixel's neighbourhood, the rows of the plane are `row`
// floats apart; weight (K * K, channels). Writes whole groups of kDepthwisePixels: `in` and `out`
// have room for them.

template <int W, int K>
MOCE_NOINLINE void depthwise_row(const float* in, int64_t row, const float* weight,
                                 const float* bias, int64_t channels, float* out, int count) {
  for (int p = 0; p < count; p += kDepthwisePixels)
    for (int64_t c = 0; c < channels; c += W) {
      Vec<W> sum[kDepthwisePixels];
      for (int i = 0; i < kDepthwisePixels; i++) sum[i] = bias ? load<W>(bias + c) : Vec<W>{};
      for (int y = 0; y < K; y++) {
        const float* q = in + y * row + p * channels + c;
        const float* w = weight + y * K * channels + c;
        for (int x = 0; x < K; x++) {
          const Vec<W> tap = load<W>(w + x * channels);
          for (int i = 0; i < kDepthwisePixels; i++)
            sum[i] += load<W>(q + (i + x) * channels) * tap;
        }
      }
      for (int i = 0; i < kDepthwisePixels; i++)
        store<W>(out + (p + i) * channels + c, sum[i]);
    }
}

// Adds to the gradients of weight and bias: d is the gradient of the row's output.
template <int W, int K>
MOCE_NOINLINE void depthwise_row_gradient(const float* d, const float* in, int64_t row,
                                          int64_t channels, int count, float* weight,
                                          float* bias) {
  for (int64_t c = 0; c < channels; c += W) {
    Vec<W> total = load<W>(bias + c);
    for (int p = 0; p < count; p++) total += load<W>(d + p * channels + c);
    store<W>(bias + c, total);
    for (int y = 0; y < K; y++) {
      Vec<W> sum[K];
      float* w = weight + y * K * channels + c;
      for (int x = 0; x < K; x++) sum[x] = load<W>(w + x * channels);
      const float* q = in + y * row + c;
      for (int p = 0; p < count; p++) {
        const Vec<W> g = load<W>(d + p * channels + c);
        for (int x = 0; x < K; x++) sum[x] += g * load<W>(q + (p + x) * channels);
      }
      for (int x = 0; x < K; x++) store<W>(w + x * channels, sum[x]);
    }
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
