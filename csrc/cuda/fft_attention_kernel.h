// What the CUDA kernels of fft_attention are given, and how their work is cut up.
#pragma once

#include <algorithm>

#include "device.h"
#include "moce/types.h"

namespace moce {

struct FftAttention {
  int64_t B, C, H, W;
  float eps;
  bool channels_last;
  Strided q, k, v, out, grad, dq, dk, dv;
  const float *weight, *bias;
  // The convolution, and in the backward pass its gradient: (B, H, W, C), where the channels of a
  // window do not fit on chip. Null where they do.
  float* mixed;
  // Sums for the gradients of weight and bias: (blocks, 2, C).
  float* sums;
};

// Sums for the gradients are made by so many blocks at most, and always by the same for one shape,
// so that their order is fixed.
constexpr int64_t kMaxSums = 2048;
constexpr int kThreads = 128;
constexpr int kPixels = 64;  // of a row, in a tile of the passes over pixels

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
  bool fused;  // all channels in one tile, which stays in shared memory
  int windows;
  int64_t channels;
  unsigned across, down, groups;  // tiles in a row and column of an image, and over its channels
  unsigned tiles;
  int threads;
  int lanes;  // that share a pixel in the passes over pixels
  size_t shared;
};

inline Tiling tiling(const FftAttention& a, int P, bool backward, const Device& device) {
  const auto tiles_of = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
  Tiling t{};
  const bool in_registers = P <= 8;
  const int64_t across = tiles_of(a.W, P);
  t.windows = in_registers ? static_cast<int>(std::clamp<int64_t>(kThreads / a.C, 1, across)) : 1;
  // Lanes that leave few channels over; with contiguous pixels a lane takes a pixel.
  t.lanes = 1;
  if (a.channels_last)
    for (int lanes = 2; lanes <= 32; lanes *= 2)
      if (tiles_of(a.C, lanes) * lanes <= tiles_of(a.C, t.lanes) * t.lanes + a.C / 4) t.lanes = lanes;
  // Two blocks at least on a multiprocessor: one loads while the other computes. Each has a
  // kilobyte taken from it.
  const int64_t most = std::min(device.shared_for_block(), device.shared_for_all() / 2 - 1024);
  const auto fits = [&] {
    const size_t tile = sizeof(float) * t.windows * P * P * (a.C | 1);
    const size_t sums = backward ? sizeof(float) * kThreads / 32 * 2 * a.C : 0;
    t.shared = scratch_bytes(P) + tile + sums;
    return static_cast<int64_t>(t.shared) <= most;
  };
  while (!fits() && t.windows > 1) t.windows--;
  t.fused = fits();
  t.channels = t.fused ? a.C : in_registers ? kThreads : channels_together(P);
  t.channels = std::min(t.channels, a.C);
  t.threads = kThreads;
  if (in_registers) {
    const int64_t items = t.windows * t.channels, rounds = tiles_of(items, kThreads);
    t.threads = static_cast<int>(tiles_of(tiles_of(items, rounds), 32) * 32);
  }
  if (!t.fused) t.shared = scratch_bytes(P);
  t.across = narrow(tiles_of(across, t.windows));
  t.down = narrow(tiles_of(a.H, P));
  t.groups = narrow(tiles_of(a.C, t.channels));
  t.tiles = narrow(a.B * int64_t{t.down} * t.across * t.groups);
  return t;
}

inline unsigned pixel_tiles(const FftAttention& a) {
  return narrow(a.B * a.H * ((a.W + kPixels - 1) / kPixels));
}

// Fused: out, or all gradients and sums. Else: `convolve` makes mixed, `normalise` out of it or
// `differentiate` its gradient in its place, dv and sums; `correlate` dq and dk.
struct FftAttentionKernel {
  void (*convolve)(const FftAttention&, int window, const Tiling&, cudaStream_t);
  void (*normalise)(const FftAttention&, const Tiling&, cudaStream_t);
  void (*differentiate)(const FftAttention&, const Tiling&, cudaStream_t);
  void (*correlate)(const FftAttention&, int window, const Tiling&, cudaStream_t);
};

extern const FftAttentionKernel fft_attention_float, fft_attention_bfloat16, fft_attention_half;

}  // namespace moce
