// GDFN on plain memory: what gated_feedforward_kernel.cpp, compiled once for each instruction set,
// offers to gated_feedforward.cpp.
#pragma once

#include "projection_gradient.h"

namespace moce {

struct GatedFeedForward {
  Type type;                 // of the activations
  int64_t B, H, W, C, hidden;  // hidden: channels of the gate
  bool norm;
  float eps;
  Strided x, out;
  const float *in, *in_bias;                // (2 hidden, C), (2 hidden,) or null
  const float *depthwise, *depthwise_bias;  // (2 hidden, 3, 3), (2 hidden,) or null
  const float *out_weight, *out_bias;       // (C, hidden), (C,) or null
  float* packed;                            // the weights as the kernel reads them, by `pack`

  Strided grad;  // backward
  ProjectionGradient gradient;
  float *dout_weight, *dout_bias;
};

struct GatedFeedForwardKernel {
  int64_t (*packed_size)(const GatedFeedForward&);
  int64_t (*rows)(const GatedFeedForward&);     // of all strips
  int64_t (*scratch)(const GatedFeedForward&);  // floats, 64-byte aligned, for one thread
  // Vectors of channels begin <= i < end.
  int64_t (*vectors)(const GatedFeedForward&);
  void (*pack)(const GatedFeedForward&, int64_t begin, int64_t end);
  // Rows begin <= i < end.
  void (*forward)(const GatedFeedForward&, int64_t begin, int64_t end, float* scratch);

  GradientKernel<GatedFeedForward> gradient;
};

}  // namespace moce
