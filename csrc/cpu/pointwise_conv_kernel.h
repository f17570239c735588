// 1x1 convolution on plain memory: what pointwise_conv_kernel.cpp, compiled once for each
// instruction set, offers to pointwise_conv.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

struct PointwiseConv {
  Type type;            // of the activations
  int64_t B, H, W;      // H is 1 and W all pixels of an image where memory allows
  int64_t inner, outer;  // channels of x and of out
  bool norm;
  float eps;
  Strided x, residual, out;   // residual.data may be null; backward it is added to dx
  const float *weight, *bias;  // (outer, inner), (outer,) or null
  float* packed;               // the weights as the kernels read them, made by `pack`

  Strided grad, dx;       // backward; dx.data is null where it is not needed
  float* sums;            // (groups, sums_size); null where weights need no gradient
  int64_t groups;         // blocks of pixels are dealt to them in order
  float *dweight, *dbias;
};

struct PointwiseConvKernel {
  int64_t (*blocks)(const PointwiseConv&);  // of pixels
  int64_t (*packed_size)(const PointwiseConv&);
  int64_t (*sums_size)(const PointwiseConv&);
  int64_t (*scratch)(const PointwiseConv&);  // floats, 64-byte aligned, for one thread
  void (*pack)(const PointwiseConv&, bool backward);
  // Blocks begin <= i < end.
  void (*forward)(const PointwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Groups begin <= i < end: dx, and their sums.
  void (*backward)(const PointwiseConv&, int64_t begin, int64_t end, float* scratch);
  // Adds up the groups' sums in order and writes dweight and dbias.
  void (*reduce)(const PointwiseConv&);
};

}  // namespace moce
