// What the CUDA kernels of gated_depthwise_conv are given.
#pragma once

#include "depthwise_rows.h"

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

inline int64_t summed_rows(const RowTiles& s) {
  return int64_t{s.across ? s.blocks / s.across : 0} * s.runs;
}

struct GatedDepthwiseConvKernel {
  void (*forward)(const GatedDepthwiseConv&, int multiprocessors, cudaStream_t);
  RowTiles (*backward_tiles)(const GatedDepthwiseConv&, int multiprocessors);
  void (*backward)(const GatedDepthwiseConv&, int multiprocessors, cudaStream_t);
};

extern const GatedDepthwiseConvKernel gated_depthwise_conv_float, gated_depthwise_conv_bfloat16,
    gated_depthwise_conv_half;

}  // namespace moce
