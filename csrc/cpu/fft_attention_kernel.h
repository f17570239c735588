// Window FFT attention on plain memory: what fft_attention_kernel.cpp, compiled once for each
// instruction set, offers to fft_attention.cpp.
#pragma once

#include "window_fft_conv_kernel.h"

namespace moce {

struct FftAttention : WindowFftConv {
  float eps;
  Strided v;
  const float *weight, *bias;  // (C,) each

  Strided dv;      // backward
  float* dnorm;    // (groups, 2, C): sums for the gradients of weight and bias
  int64_t groups;  // strips are dealt to groups in order
};

struct FftAttentionKernel {
  // Floats of scratch, 64-byte aligned, that one thread needs.
  int64_t (*scratch)(const FftAttention&, bool backward);
  // Strips begin <= i < end.
  void (*forward)(const FftAttention&, int64_t begin, int64_t end, float* scratch);
  // Groups begin <= i < end.
  void (*backward)(const FftAttention&, int64_t begin, int64_t end, float* scratch);
};

}  // namespace moce
