// What the CUDA kernels of fft_attention are given, and how their work is cut up.
#pragma once

#include "window_fft_conv_kernel.h"

namespace moce {

struct FftAttention : WindowFftConv {
  float eps;
  Windows v, dv;
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
constexpr int kPixels = 64;  // of a row, in a tile of the passes over pixels

struct AttentionTiling : Tiling {
  bool fused;  // all channels in one tile, which stays in shared memory
  int lanes;   // that share a pixel in the passes over pixels
};

inline AttentionTiling tiling(const FftAttention& a, int P, bool backward, const Device& device) {
  AttentionTiling t{window_tiling(a, P)};
  // Lanes that leave few channels over; with contiguous pixels a lane takes a pixel.
  t.lanes = 1;
  if (a.channels_last)
    for (int lanes = 2; lanes <= 32; lanes *= 2)
      if (tiles_of(a.C, lanes) * lanes <= tiles_of(a.C, t.lanes) * t.lanes + a.C / 4) t.lanes = lanes;
  // Two blocks at least on a multiprocessor: one loads while the other computes. Each has a
  // kilobyte taken from it.
  const int64_t most = std::min(device.shared_for_block(), device.shared_for_all() / 2 - 1024);
  const auto fused_bytes = [&] {
    const size_t tile = sizeof(float) * t.windows * P * P * (a.C | 1);
    const size_t sums = backward ? sizeof(float) * threads_of(P) / 32 * 2 * a.C : 0;
    return scratch_bytes(P) + tile + sums;
  };
  const auto fits = [&] { return static_cast<int64_t>(fused_bytes()) <= most; };
  while (!fits() && t.windows > 1) t.windows--;
  t.fused = fits();
  if (t.fused) {
    t.channels = a.C;
    t.shared = fused_bytes();
  }
  cut(a, P, t);
  return t;
}

inline unsigned pixel_tiles(const FftAttention& a) {
  return narrow(a.B * a.H * tiles_of(a.W, kPixels));
}

// Fused: `attention` makes out, `attention_backward` all gradients and sums. Else window_fft_conv's
// kernels make mixed, `normalise` out of it or `differentiate` its gradient in its place, dv and sums;
// and window_fft_conv's dq and dk.
struct FftAttentionKernel {
  void (*attention)(const FftAttention&, int window, const AttentionTiling&, cudaStream_t);
  void (*attention_backward)(const FftAttention&, int window, const AttentionTiling&, cudaStream_t);
  void (*normalise)(const FftAttention&, const AttentionTiling&, cudaStream_t);
  void (*differentiate)(const FftAttention&, const AttentionTiling&, cudaStream_t);
};

extern const FftAttentionKernel fft_attention_float, fft_attention_bfloat16, fft_attention_half;

}  // namespace moce
