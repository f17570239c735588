// Depthwise convolution: what depthwise_conv_kernel.cu offers to depthwise_conv.cu.
#pragma once

#include <cuda_runtime.h>

#include "moce/types.h"

namespace moce {

struct DepthwiseConv {
  int64_t B, C, H, W;
  Strided x, out, grad;
  bool pairs;                  // see has_pairs, of all of them
  const float *weight, *bias;  // (C, K, K) and (C) or null
  bool flip;                   // the taps: the gradient of x is such a convolution of that of out
  float* sums;                 // (chunks, C K K + C)
};

struct WeightTiles;  // see depthwise_tiles.h

struct DepthwiseConvKernel {
  void (*forward)(const DepthwiseConv&, int kernel, int multiprocessors, cudaStream_t);
  void (*backward_weight)(const DepthwiseConv&, int kernel, const WeightTiles&, cudaStream_t);
};

extern const DepthwiseConvKernel depthwise_conv_float, depthwise_conv_bfloat16, depthwise_conv_half;

}  // namespace moce
