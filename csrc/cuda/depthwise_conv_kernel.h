// What the CUDA kernels of depthwise_conv are given, and how their work is cut up.
#pragma once

#include "device.h"
#include "moce/types.h"

namespace moce {

struct DepthwiseConv {
  int64_t B, C, H, W;
  Strided x, out, grad;
  const float *weight, *bias;  // (C, K, K) and (C) or null
  float* sums;                 // (chunks, C K K + C)
};

constexpr int kThreads = 128;
constexpr int kStrip = 8;      // pixels of a row that a thread computes together,
constexpr int kStripRows = 2;  // and rows, forward

// A block has so many channels, side by side in memory, and strips of pixels of all images. It takes
// one strip in `chunks` chunks of them after the other.
struct Strips {
  unsigned lanes, groups;  // channels of a block, and how many such groups there are
  unsigned across, down, strips, chunks;
  unsigned blocks() const { return groups * chunks; }
};

inline Strips strips(const DepthwiseConv& a, int rows, int64_t most_blocks) {
  const auto parts = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
  Strips s{};
  s.lanes = a.x.c == 1 ? 32 : 1;
  s.groups = narrow(parts(a.C, s.lanes));
  s.across = narrow(parts(a.W, kStrip));
  s.down = narrow(parts(a.H, rows));
  s.strips = narrow(a.B * int64_t{s.across} * s.down);
  const int64_t chunks = parts(s.strips, kThreads / s.lanes);
  s.chunks = narrow(std::min(chunks, std::max<int64_t>(1, most_blocks / s.groups)));
  return s;
}

struct DepthwiseConvKernel {
  void (*forward)(const DepthwiseConv&, int kernel, const Strips&, cudaStream_t);
  void (*backward_weight)(const DepthwiseConv&, int kernel, const Strips&, cudaStream_t);
};

extern const DepthwiseConvKernel depthwise_conv_float, depthwise_conv_bfloat16, depthwise_conv_half;

}  // namespace moce
