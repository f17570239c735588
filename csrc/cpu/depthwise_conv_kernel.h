// Depthwise convolution on plain memory: what depthwise_conv_kernel.cpp, compiled once for each
// instruction set, offers to depthwise_conv.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

struct DepthwiseConv {
  static constexpr int64_t kRows = 16, kColumns = 64;  // of a tile, at most

  Type type;  // of x, out and grad
  int64_t B, C, H, W;
  int kernel;  // 3 or 7
  Strided x;
  const float *weight, *bias;  // (C, kernel, kernel) and (C,) or null
  bool flip;                   // the taps: the gradient of x is such a convolution of that of out

  Strided out;          // forward
  const float* packed;  // the weights as pack() arranges them

  Strided grad;           // backward
  float* sums;            // (groups, packed size): sums for the gradients of weight and bias
  int64_t groups;         // tiles are dealt to groups in order, one after the other
  float *dweight, *dbias;  // (C, kernel, kernel), (C,)

  // Tiles of equal size, or one row or column less.
  int64_t tile_rows() const { return (H + kRows - 1) / kRows; }
  int64_t tile_columns() const { return (W + kColumns - 1) / kColumns; }
  int64_t tiles() const { return B * tile_rows() * tile_columns(); }
};

struct DepthwiseConvKernel {
  // The channels of a tile, or of a group's tiles, are taken in so many parts.
  int64_t (*parts)(const DepthwiseConv&);
  int64_t (*backward_parts)(const DepthwiseConv&);
  int64_t (*packed_size)(const DepthwiseConv&);  // floats, of all blocks' weights and biases
  int64_t (*scratch)(const DepthwiseConv&);      // floats, 64-byte aligned, for one thread
  void (*pack)(const DepthwiseConv&, float* packed);
  // Parts begin <= i < end of all parts of all tiles.
  void (*forward)(const DepthwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Parts begin <= i < end of all parts of all groups; adds to the sums.
  void (*backward_weight)(const DepthwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Adds up the groups' sums in order and writes dweight and dbias.
  void (*reduce)(const DepthwiseConv&);
};

}  // namespace moce
