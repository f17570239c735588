// What the CUDA kernels of window_fft_conv are given, and how their work is cut up.
#pragma once

#include <algorithm>

#include "device.h"
#include "moce/types.h"

namespace moce {

// A tensor of which so many bytes of neighbouring channels may be read at once: 16, 8 or 4, or 0,
// where single elements are.
struct Windows : Strided {
  int chunk;
};

struct WindowFftConv {
  int64_t B, C, H, W;
  bool channels_last;
  Windows q, k, out, grad, dq, dk;
  // Of a routing plan, for one expert: which of the B slots are its own are order[offsets[0]] to
  // order[offsets[1] - 1]. Null where all are.
  const int64_t *order, *offsets;
};

// Windows of 4: a thread holds a window of one channel in registers. Of 8 to 32: P/2 threads work on
// one channel, on so many channels together, with two matrices of P x P floats for each in shared
// memory.
constexpr int channels_together(int window) { return window == 32 ? 8 : 16; }
constexpr int row_floats(int window) { return (window + 1) * channels_together(window); }
constexpr int threads_of(int window) {
  return window == 4 ? 128 : window / 2 * channels_together(window);
}
constexpr int kThreads = 128;  // at most
constexpr size_t scratch_bytes(int window) {
  return window == 4 ? 0 : sizeof(float) * 2 * window * row_floats(window);
}

// A tile is `windows` windows side by side, of `channels` channels.
struct Tiling {
  int windows;
  int64_t channels;
  unsigned across, down, groups;  // tiles in a row and column of an image, and over its channels
  unsigned of_image, tiles;
  int threads;
  size_t shared;
};

constexpr int64_t tiles_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// The rest, for tiles of `windows` and `channels`.
inline void cut(const WindowFftConv& a, int P, Tiling& t) {
  t.threads = threads_of(P);
  if (P == 4) {
    const int64_t items = t.windows * t.channels, rounds = tiles_of(items, t.threads);
    t.threads = static_cast<int>(tiles_of(tiles_of(items, rounds), 32) * 32);
  }
  t.across = narrow(tiles_of(tiles_of(a.W, P), t.windows));
  t.down = narrow(tiles_of(a.H, P));
  t.groups = narrow(tiles_of(a.C, t.channels));
  t.of_image = narrow(int64_t{t.down} * t.across * t.groups);
  t.tiles = narrow(a.B * int64_t{t.of_image});
}

inline Tiling window_tiling(const WindowFftConv& a, int P) {
  Tiling t{};
  t.windows = 1;
  if (P == 4)
    t.windows = static_cast<int>(std::clamp<int64_t>(threads_of(P) / a.C, 1, tiles_of(a.W, P)));
  t.channels = std::min<int64_t>(P == 4 ? threads_of(P) : channels_together(P), a.C);
  t.shared = scratch_bytes(P);
  cut(a, P, t);
  return t;
}

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
