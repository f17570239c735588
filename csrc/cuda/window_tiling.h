// How the operators over windows cut their work up on GPUs, on the host.
#pragma once

#include <algorithm>

#include "device.h"
#include "moce/unroll.h"
#include "window_fft_conv_kernel.h"

namespace moce {

// A divisor of 31 bits of numbers of 31 bits, as a multiplication.
struct Divisor {
  unsigned divisor, factor, shift;

  Divisor() = default;
  explicit Divisor(unsigned d) : divisor(d), shift(31) {
    while ((uint64_t{1} << (shift - 31)) < d) shift++;
    factor = static_cast<unsigned>(((uint64_t{1} << shift) + d - 1) / d);
  }
  // Divides n, and returns what is left.
  MOCE_INLINE unsigned divide(unsigned& n) const {
    const unsigned all = n;
    n = static_cast<unsigned>((uint64_t{all} * factor) >> shift);
    return all - n * divisor;
  }
};

// Windows of 4: a thread holds a window of two channels in registers. Of 8 to 32: the threads of a part
// of a block work on so many channels together, which have a matrix of P x P floats each in shared
// memory, for q and for k; each has so many of the matrix's P/2 complex columns in turn.
constexpr int channels_together(int window) { return window == 32 ? 8 : 16; }
constexpr int columns_together(int window) { return window == 8 ? 2 : window / 2; }
constexpr int part_threads(int window) {
  return window == 4 ? 64 : columns_together(window) * channels_together(window);
}
// Two neighbouring numbers of a row, of all channels. Four floats more keep accesses of 16 bytes to
// neighbours out of the same banks, or at windows of 32 half a bank's row keeps rows so.
constexpr int slot_floats(int window) {
  return 2 * channels_together(window) + (window == 32 ? 0 : 4);
}
constexpr int row_floats(int window) {
  return window / 2 * slot_floats(window) + (window == 32 ? 16 : 0);
}
constexpr int matrix_floats(int window) { return window == 4 ? 0 : window * row_floats(window); }

// A tile is `windows` windows side by side, of `channels` of C channels. A block has so many parts.
struct Tiling {
  int windows, channels, C;
  Divisor across, down, groups;  // tiles in a row and column of an image, and over its channels
  unsigned of_image, tiles;
  int parts, threads;
  size_t shared;
};

// The rest, for tiles of `windows` and `channels` and blocks of so many parts.
inline void cut(const WindowFftConv& a, int P, Tiling& t) {
  t.C = a.C;
  t.threads = t.parts * part_threads(P);
  const unsigned across = narrow(tiles_of(tiles_of(a.W, P), t.windows));
  const unsigned down = narrow(tiles_of(a.H, P)), groups = narrow(tiles_of(a.C, t.channels));
  t.across = Divisor(across);
  t.down = Divisor(down);
  t.groups = Divisor(groups);
  t.of_image = narrow(int64_t{down} * across * groups);
  t.tiles = narrow(a.B * int64_t{t.of_image});
}

// How many windows of 4 to take side by side, of so many pairs of channels, such that few threads are
// over in a row of `across` windows.
inline int windows_together(int64_t pairs, int64_t across, int64_t most) {
  const auto turns = [&](int64_t windows) { return tiles_of(windows * pairs, part_threads(4)); };
  const auto of_row = [&](int64_t windows) {
    return across / windows * turns(windows) + turns(across % windows);
  };
  int64_t best = 1;
  for (int64_t windows = 2; windows <= std::min(most, across); windows++)
    if (100 * of_row(windows) < 99 * of_row(best)) best = windows;
  return static_cast<int>(best);
}

constexpr int convolve_parts(int window) { return window == 8 ? 4 : 1; }  // with a tile each

// For convolutions alone.
inline Tiling window_tiling(const WindowFftConv& a, int P) {
  Tiling t{};
  t.windows = 1;
  t.channels = std::min(P == 4 ? 2 * part_threads(P) : channels_together(P), a.C);
  if (P == 4) {
    const int64_t pairs = tiles_of(t.channels, 2);
    t.windows = windows_together(pairs, tiles_of(a.W, P), 4 * tiles_of(part_threads(P), pairs));
  }
  t.parts = convolve_parts(P);
  t.shared = sizeof(float) * t.parts * 2 * matrix_floats(P);
  cut(a, P, t);
  return t;
}

}  // namespace moce
