// 1x1 and depthwise convolution on plain memory: what projected_depthwise_conv_kernel.cpp, compiled
// once for each instruction set, offers to projected_depthwise_conv.cpp.
#pragma once

#include "projection_gradient.h"

namespace moce {

struct ProjectedDepthwiseConv {
  Type type;                       // of the activations
  int64_t B, H, W, inner, outer;   // channels of x and of out
  int kernel;                      // of the depthwise convolution, 3 or 7
  bool norm;
  float eps;
  Strided x, out;
  const float *weight, *bias;               // (outer, inner), (outer,) or null
  const float *depthwise, *depthwise_bias;  // (outer, K, K), (outer,) or null
  float* packed;                            // the weights as the kernel reads them, by `pack`

  Strided grad;  // backward
  ProjectionGradient gradient;
};

struct ProjectedDepthwiseConvKernel {
  int64_t (*packed_size)(const ProjectedDepthwiseConv&);
  int64_t (*rows)(const ProjectedDepthwiseConv&);     // of all strips
  int64_t (*scratch)(const ProjectedDepthwiseConv&);  // floats, 64-byte aligned, for one thread
  // Vectors of channels begin <= i < end.
  int64_t (*vectors)(const ProjectedDepthwiseConv&);
  void (*pack)(const ProjectedDepthwiseConv&, int64_t begin, int64_t end);
  // Rows begin <= i < end.
  void (*forward)(const ProjectedDepthwiseConv&, int64_t begin, int64_t end, float* scratch);

  GradientKernel<ProjectedDepthwiseConv> gradient;
};

}  // namespace moce
