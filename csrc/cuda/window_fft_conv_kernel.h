// Circular convolution of windows: what window_fft_conv_kernel.cu offers to window_fft_conv.cu and
// fft_attention.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace moce {

// A (B, C, H, W) tensor: where it lies and its strides in elements. So many bytes of neighbouring
// channels may be read at once: 16, 8 or 4; 0, where single elements are.
struct Windows {
  void* data;
  int64_t b, c;
  int h, w;
  int chunk, element_size;
};

struct WindowFftConv {
  int64_t B;
  int C, H, W;
  bool channels_last;
  Windows q, k, out, grad, dq, dk;
};

struct Tiling;  // see window_tiling.h

// `out` and `grad` are of the other tensors' element type, or of floats.
struct WindowFftConvKernel {
  void (*convolve)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
  void (*correlate)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
  void (*convolve_to_floats)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
  void (*correlate_floats)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
};

extern const WindowFftConvKernel window_fft_conv_float, window_fft_conv_bfloat16,
    window_fft_conv_half;

}  // namespace moce
