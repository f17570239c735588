// What the CUDA kernels of depthwise_conv are given, and how the gradient's work is cut up.
#pragma once

#include "depthwise_rows.h"

namespace moce {

struct DepthwiseConv {
  int64_t B, C, H, W;
  Strided x, out, grad;
  bool pairs;                  // see has_pairs, of all of them
  const float *weight, *bias;  // (C, K, K) and (C) or null
  bool flip;                   // the taps: the gradient of x is such a convolution of that of out
  float* sums;                 // (chunks, C K K + C)
};

// Blocks of kRowThreads threads that a multiprocessor runs at once, for which registers are kept.
constexpr int resident_blocks(int kernel) { return kernel == 3 ? 6 : 3; }
constexpr int resident_for_weight(int kernel) { return kernel == 3 ? 5 : 3; }

// The gradient of the taps: a block has `lanes` units of channels side by side and `per` runs of
// columns of each, of one tile in every `chunks` after the other.
constexpr int columns_for_weight(int kernel, bool pairs) { return kernel == 3 && !pairs ? 8 : 4; }
struct WeightTiles {
  unsigned units, lanes, groups;
  unsigned runs, per, across;
  unsigned down, rows, tiles, chunks;
  unsigned blocks() const { return groups * chunks; }
  unsigned threads() const { return (lanes * per + 31) / 32 * 32; }
};

inline WeightTiles weight_tiles(const DepthwiseConv& a, int kernel, int64_t multiprocessors) {
  WeightTiles s{};
  s.units = narrow(a.pairs && kernel == 3 ? a.C / 2 : a.C);
  s.runs = narrow(parts(narrow(a.W), columns_for_weight(kernel, a.pairs)));
  s.groups = narrow(a.x.c == 1 ? parts(s.units, kRowThreads) : s.units);
  s.lanes = narrow(parts(s.units, s.groups));
  s.per = std::min(kRowThreads / s.lanes, s.runs);
  s.across = narrow(parts(s.runs, s.per));
  const int64_t resident = multiprocessors * resident_for_weight(kernel);
  const int64_t slots = std::max<int64_t>(1, resident / s.groups);
  s.rows = narrow(parts(a.H, tiles_down(a.H, kernel, a.B * s.across, slots)));
  s.down = narrow(parts(a.H, s.rows));
  s.tiles = narrow(a.B * s.down * s.across);
  s.chunks = narrow(std::min<int64_t>(s.tiles, slots));
  return s;
}

struct DepthwiseConvKernel {
  void (*forward)(const DepthwiseConv&, int kernel, int multiprocessors, cudaStream_t);
  void (*backward_weight)(const DepthwiseConv&, int kernel, const WeightTiles&, cudaStream_t);
};

extern const DepthwiseConvKernel depthwise_conv_float, depthwise_conv_bfloat16, depthwise_conv_half;

}  // namespace moce
