// How fft_attention cuts its work up on GPUs, on the host.
#pragma once

#include "fft_attention_kernel.h"
#include "window_tiling.h"

namespace moce {

// Sums for the gradients are made by so many blocks at most, and always by the same for one shape,
// so that their order is fixed.
constexpr int64_t kMaxSums = 2048;
constexpr int kPixels = 64;  // of a row, in a tile of the passes over pixels

constexpr int kThreads = 128;  // of a block in those passes

struct AttentionTiling : Tiling {
  bool fused;  // all channels in one tile, which stays in shared memory
  int slot;    // windows of 4: floats for two pixels of all channels
  int sums;    // floats of the sums for the gradients
  // Lanes that share a pixel in the passes over pixels: 2^bits, of one channel each at a time; or
  // 2^fours_bits of four channels of two pixels, `fours` times, where memory allows, else 0.
  int bits, fours_bits, fours;
};

// Weight and bias in shared memory.
constexpr int affine_floats(int64_t channels) {
  return static_cast<int>(8 * tiles_of(channels, 4));
}

// Parts of a block of fft_attention, at most.
constexpr int most_parts(int window) { return window == 4 ? 1 : window == 32 ? 2 : 3; }

// Parts that share the groups of channels evenly, at most so many.
inline int even_parts(int64_t groups, int64_t most) {
  return static_cast<int>(tiles_of(groups, tiles_of(groups, std::min(groups, most))));
}

inline AttentionTiling tiling(const FftAttention& a, int P, bool backward, const Device& device) {
  AttentionTiling t{window_tiling(a, P)};
  const int64_t groups = P == 4 ? 1 : tiles_of(a.C, channels_together(P));
  t.slot = static_cast<int>(8 * tiles_of(a.C, 4) + 4);
  const auto in_fours = [](const Windows& s) { return s.chunk >= std::min(16, 4 * s.element_size); };
  if (a.C % 4 == 0 && in_fours(a.v) &&
      (backward ? in_fours(a.grad) && in_fours(a.dv) : in_fours(a.out))) {
    int64_t fours = a.C / 4;
    for (; fours > 2 && fours % 2 == 0 && t.fours_bits < 5; fours /= 2) t.fours_bits++;
    t.fours = fours <= 3 ? static_cast<int>(fours) : 0;
  }
  // Lanes that leave few channels over; with contiguous pixels a lane takes a pixel.
  const auto taken = [&](int bits) { return tiles_of(a.C, 1 << bits) << bits; };
  if (a.channels_last)
    for (int bits = 1; bits <= 5; bits++)
      if (taken(bits) <= taken(t.bits) + a.C / 4) t.bits = bits;
  // Two blocks at least on a multiprocessor: one loads while the other computes. Each has a
  // kilobyte taken from it.
  const int64_t most = std::min(device.shared_for_block(), device.shared_for_all() / 2 - 1024);
  Tiling fused = t;
  fused.channels = a.C;
  // Windows of 4: so few that there is room for 8 blocks.
  const int64_t slots = std::clamp<int64_t>(26 * 1024 / (sizeof(float) * 8 * t.slot), 1, 64);
  fused.windows = P == 4 ? windows_together(tiles_of(a.C, 2), tiles_of(a.W, 4), slots) : 1;
  for (fused.parts = P == 4 ? 1 : even_parts(groups, most_parts(P)); fused.parts > 0;
       fused.parts = fused.parts > 1 ? even_parts(groups, fused.parts - 1) : 0) {
    cut(a, P, fused);
    // The sums are followed by accesses of 16 bytes.
    t.sums = static_cast<int>(tiles_of(fused.threads / 32 * 2 * a.C, 4) * 4);
    const int64_t mixed = P == 4 ? int64_t{8} * fused.windows * t.slot : groups * matrix_floats(P);
    const int64_t floats = (backward ? t.sums : 0) + affine_floats(a.C) + mixed +
                           int64_t{fused.parts} * matrix_floats(P);
    fused.shared = sizeof(float) * floats;
    if (static_cast<int64_t>(fused.shared) > most) continue;
    t.fused = true;
    static_cast<Tiling&>(t) = fused;
    break;
  }
  return t;
}

inline unsigned pixel_tiles(const FftAttention& a) {
  return narrow(a.B * a.H * tiles_of(a.W, kPixels));
}

}  // namespace moce
