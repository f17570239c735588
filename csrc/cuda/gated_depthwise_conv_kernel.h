// Depthwise convolution with a GELU gate: what gated_depthwise_conv_kernel.cu offers to
// gated_depthwise_conv.cu.
#pragma once

#include <cuda_runtime.h>

#include "moce/types.h"

namespace moce {

struct GatedDepthwiseConv {
  int64_t B, C, H, W;          // C: of the output, half of x's
  Strided x, grad, out;        // backward, out are the gradients of a and b beside each other
  bool pairs;                  // see has_pairs, of all of them
  const float *weight, *bias;  // (2 C, 3, 3) and (2 C) or null
  // Backward, sums of the gradients of a and b as they are before they are rounded: (summed_rows(tiles),
  // 2 C), of which each thread makes what its pixels give; or null.
  float* sums;
};

struct RowTiles;  // see depthwise_tiles.h

struct GatedDepthwiseConvKernel {
  void (*forward)(const GatedDepthwiseConv&, int multiprocessors, cudaStream_t);
  RowTiles (*backward_tiles)(const GatedDepthwiseConv&, int multiprocessors);
  void (*backward)(const GatedDepthwiseConv&, int multiprocessors, cudaStream_t);
};

extern const GatedDepthwiseConvKernel gated_depthwise_conv_float, gated_depthwise_conv_bfloat16,
    gated_depthwise_conv_half;

}  // namespace moce
