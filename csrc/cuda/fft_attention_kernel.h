// Window FFT attention: what fft_attention_kernel.cu offers to fft_attention.cu.
#pragma once

#include "window_fft_conv_kernel.h"

namespace moce {

struct FftAttention : WindowFftConv {
  float eps;
  float channels, share;  // C and 1 / C
  Windows v, dv;
  const float *weight, *bias;
  // The convolution, and in the backward pass its gradient, in floats and channels-last, where the
  // channels of a window do not fit on chip; and a zero for each tile of all its channels.
  Windows mixed;
  unsigned* counters;
  // Sums for the gradients of weight and bias: (blocks, 2, C).
  float* sums;
};

struct AttentionTiling;  // see attention_tiling.h

// Fused: `attention` makes out, `attention_backward` all gradients and sums. Else `attention_in_memory`
// makes out; backward, window_fft_conv's kernels make mixed, `differentiate` its gradient in its place,
// dv and sums, and window_fft_conv's dq and dk.
struct FftAttentionKernel {
  void (*attention)(const FftAttention&, int window, const AttentionTiling&, cudaStream_t);
  void (*attention_backward)(const FftAttention&, int window, const AttentionTiling&, cudaStream_t);
  void (*attention_in_memory)(const FftAttention&, int window, const AttentionTiling&,
                              cudaStream_t);
  void (*differentiate)(const FftAttention&, const AttentionTiling&, cudaStream_t);
};

extern const FftAttentionKernel fft_attention_float, fft_attention_bfloat16, fft_attention_half;

}  // namespace moce
