// Depthwise convolution by a routing plan: what grouped_depthwise_conv_kernel.cu offers to
// grouped_depthwise_conv.cu.
#pragma once

#include <vector>

#include "depthwise_tiles.h"

namespace moce {

// Of how many experts at most there are tiles among a kernel's arguments: more have a launch for so many.
constexpr unsigned kExperts = 32;

// The tiles of experts that follow each other in a layer, and the first channel of each in the weights.
template <class Tiles>
struct ExpertTiles {
  unsigned first, count;
  unsigned blocks;  // forward: enough for a slot of any of them; backward: of all of them
  Tiles of[kExperts];
  unsigned channel[kExperts];
};

struct GroupedDepthwiseConv {
  DepthwiseConv conv;              // B: slots; C: the channels of all experts
  std::vector<int64_t> channels;   // of each expert
  const int64_t* index;            // (B): the expert of each slot
  const int64_t *order, *offsets;  // expert e's slots: order[offsets[e]] to order[offsets[e + 1] - 1]
};

struct GroupedDepthwiseConvKernel {
  void (*forward)(const GroupedDepthwiseConv&, int kernel, int multiprocessors, cudaStream_t);
  void (*backward_weight)(const GroupedDepthwiseConv&, int kernel, const ExpertTiles<WeightTiles>&,
                          cudaStream_t);
};

extern const GroupedDepthwiseConvKernel grouped_depthwise_conv_float,
    grouped_depthwise_conv_bfloat16, grouped_depthwise_conv_half;

}  // namespace moce
