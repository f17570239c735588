// The window convolution of a layer of experts: what grouped_window_conv_kernel.cu offers to
// grouped_window_conv.cu.
#pragma once

#include "window_fft_conv_kernel.h"
#include "window_tiling.h"

namespace moce {

constexpr int kMostExperts = 8;  // of a launch, whose arguments they are

// Experts that follow each other in a layer, and a routing plan: the slots of the first of them are
// order[offsets[0]] to order[offsets[1] - 1], and so on.
struct Experts {
  struct One {
    int window;
    Tiling tiling;
  };
  const int64_t *order, *offsets;
  int count;
  Divisor blocks;  // of a slot, as many as the tiles of any expert need
  One of[kMostExperts];
};

// `out` and `grad` are of floats. C is not used: each expert has its own.
struct GroupedWindowConvKernel {
  void (*convolve)(const WindowFftConv&, const Experts&, cudaStream_t);
  void (*correlate)(const WindowFftConv&, const Experts&, cudaStream_t);
};

extern const GroupedWindowConvKernel grouped_window_conv_float, grouped_window_conv_bfloat16,
    grouped_window_conv_half;

}  // namespace moce
