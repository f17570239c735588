// Window FFT attention on plain memory: what fft_attention_kernel.cpp, compiled once for each
// instruction set, offers to fft_attention.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

struct FftAttention {
  Type type;  // of q, k, v, out, grad, dq, dk, dv
  int64_t B, C, H, W;
  int window;
  float eps;
  Strided q, k, v;
  const float *weight, *bias;  // (C,) each

  Strided out;  // forward

  Strided grad, dq, dk, dv;  // backward
  float* dnorm;              // (groups, 2, C): sums for the gradients of weight and bias
  int64_t groups;            // strips are dealt to groups in order

  // The unit of work: `window` rows of 32 columns.
  int64_t strips() const { return B * ((H + window - 1) / window) * ((W + 31) / 32); }
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
