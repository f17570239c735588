// Circular convolution of windows on plain memory: what window_fft_conv_kernel.cpp, compiled once for
// each instruction set, offers to window_fft_conv.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

// Windows are walked in strips: `window` rows of kColumns columns, that is one window of 32 or
// several smaller ones.
constexpr int kColumns = 32;

struct WindowFftConv {
  Type type;  // of all tensors
  int64_t B, C, H, W;
  int window;
  Strided q, k;
  Strided out;           // forward
  Strided grad, dq, dk;  // backward

  // The unit of work.
  int64_t strips() const {
    return B * ((H + window - 1) / window) * ((W + kColumns - 1) / kColumns);
  }
};

struct WindowFftConvKernel {
  // Floats of scratch, 64-byte aligned, that one thread needs.
  int64_t (*scratch)(const WindowFftConv&, bool backward);
  // Strips begin <= i < end.
  void (*forward)(const WindowFftConv&, int64_t begin, int64_t end, float* scratch);
  void (*backward)(const WindowFftConv&, int64_t begin, int64_t end, float* scratch);
};

}  // namespace moce
