// What the gradients of operators that begin with a projection and a depthwise convolution share, on
// plain memory: their part of each operator's arguments, and sizes.
#pragma once

#include "moce/types.h"

namespace moce {

struct ProjectionGradient {
  Strided dx;
  float* packed;   // the weights as the gradients read them
  // Sums of the gradients of weights, (groups, size): the rows of all strips are dealt to groups in
  // order, whatever the number of threads.
  float* sums;
  int64_t groups, size, rows;
  float *weight, *bias, *depthwise, *depthwise_bias;  // gradients

  // Those of the group that row i belongs to.
  float* sums_of(int64_t i) const { return sums + ((i + 1) * groups - 1) / rows * size; }
};

struct GradientSizes {
  int64_t rows;     // of all strips, which are dealt to groups
  int64_t vectors;  // of channels, to pack and to reduce
  int64_t packed, sums, scratch;  // floats: all weights, one group's sums, one thread's buffers
};

// The functions of an operator whose arguments are A, with a ProjectionGradient `gradient`.
template <class A>
struct GradientKernel {
  GradientSizes (*sizes)(const A&);
  // Vectors of channels begin <= i < end, beside what the forward pass packs.
  void (*pack)(const A&, int64_t begin, int64_t end);
  // Rows begin <= i < end of the strips: dx; adds to their groups' sums.
  void (*backward)(const A&, int64_t begin, int64_t end, float* scratch);
  // Vectors of channels begin <= i < end: the sums of the groups, in order.
  void (*reduce)(const A&, int64_t begin, int64_t end);
};

}  // namespace moce
