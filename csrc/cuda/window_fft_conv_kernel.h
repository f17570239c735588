// What the CUDA kernels of window_fft_conv are given, and how their work is cut up.
#pragma once

#include <algorithm>

#include "device.h"
#include "moce/types.h"

namespace moce {

struct WindowFftConv {
  int64_t B, C, H, W;
  bool channels_last;
  Strided q, k, out, grad, dq, dk;
};

constexpr int kThreads = 128;

// Windows of 4 and 8: a thread holds a window of one channel in registers, and another in shared
// memory. Of 16 and 32: P/2 threads work on one channel, on so many channels together, with two
// matrices of P x P floats for each in shared memory.
constexpr int channels_together(int window) { return window == 16 ? 16 : 8; }
constexpr int row_floats(int window) { return (window + 1) * channels_together(window); }
constexpr size_t scratch_bytes(int window) {
  return sizeof(float) *
         (window <= 8 ? window * window * kThreads : 2 * window * row_floats(window));
}

// A tile is `windows` windows side by side, of `channels` channels.
struct Tiling {
  int windows;
  int64_t channels;
  unsigned across, down, groups;  // tiles in a row and column of an image, and over its channels
  unsigned tiles;
  int threads;
  size_t shared;
};

constexpr int64_t tiles_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// The rest, for tiles of `windows` and `channels`.
inline void cut(const WindowFftConv& a, int P, Tiling& t) {
  t.threads = kThreads;
  if (P <= 8) {
    const int64_t items = t.windows * t.channels, rounds = tiles_of(items, kThreads);
    t.threads = static_cast<int>(tiles_of(tiles_of(items, rounds), 32) * 32);
  }
  t.across = narrow(tiles_of(tiles_of(a.W, P), t.windows));
  t.down = narrow(tiles_of(a.H, P));
  t.groups = narrow(tiles_of(a.C, t.channels));
  t.tiles = narrow(a.B * int64_t{t.down} * t.across * t.groups);
}

inline Tiling window_tiling(const WindowFftConv& a, int P) {
  Tiling t{};
  t.windows = 1;
  if (P <= 8)
    t.windows = static_cast<int>(std::clamp<int64_t>(kThreads / a.C, 1, tiles_of(a.W, P)));
  t.channels = std::min<int64_t>(P <= 8 ? kThreads : channels_together(P), a.C);
  t.shared = scratch_bytes(P);
  cut(a, P, t);
  return t;
}

struct WindowFftConvKernel {
  void (*convolve)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
  void (*correlate)(const WindowFftConv&, int window, const Tiling&, cudaStream_t);
};

extern const WindowFftConvKernel window_fft_conv_float, window_fft_conv_bfloat16,
    window_fft_conv_half;

}  // namespace moce
