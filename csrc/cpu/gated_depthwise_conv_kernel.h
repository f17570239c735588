// Depthwise 3x3 convolution with a GELU gate on plain memory: what gated_depthwise_conv_kernel.cpp,
// compiled once for each instruction set, offers to gated_depthwise_conv.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

struct GatedDepthwiseConv {
  static constexpr int64_t kRows = 32, kColumns = 32;  // of a tile, at most

  Type type;  // of x, out and grad
  int64_t B, C, H, W;  // C channels of out, half of x's
  Strided x;
  const float *weight, *bias;  // (2C, 3, 3) and (2C,) or null

  Strided out;    // forward
  float* packed;  // the weights as the kernels read them, made by `pack`

  Strided grad, dx;        // backward
  float* sums;             // (groups, packed size): sums for the gradients of weight and bias
  int64_t groups;          // tiles are dealt to groups in order, one after the other
  float *dweight, *dbias;  // (2C, 3, 3), (2C,)

  // Tiles of equal size, or one row or column less.
  int64_t tile_rows() const { return (H + kRows - 1) / kRows; }
  int64_t tile_columns() const { return (W + kColumns - 1) / kColumns; }
  int64_t tiles() const { return B * tile_rows() * tile_columns(); }
};

struct GatedDepthwiseConvKernel {
  int64_t (*blocks)(const GatedDepthwiseConv&);       // of out's channels
  int64_t (*packed_size)(const GatedDepthwiseConv&);  // floats
  int64_t (*scratch)(const GatedDepthwiseConv&);      // floats, 64-byte aligned, for one thread
  void (*pack)(const GatedDepthwiseConv&);
  // Blocks begin <= i < end of all blocks of all tiles.
  void (*forward)(const GatedDepthwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Groups begin <= i < end: dx; adds to their sums.
  void (*backward)(const GatedDepthwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Adds up the groups' sums in order and writes dweight and dbias.
  void (*reduce)(const GatedDepthwiseConv&);
};

}  // namespace moce
