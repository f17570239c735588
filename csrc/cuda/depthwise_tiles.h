// How the depthwise operators cut their work up on GPUs, on the host.
#pragma once

#include "depthwise_conv_kernel.h"
#include "device.h"

namespace moce {

constexpr int kRowThreads = 128;

// Whether two neighbouring channels can be loaded and stored as one 32-bit word.
inline bool has_pairs(const Strided& s, int64_t channels, Type type) {
  return type != Type::kFloat && s.c == 1 && (channels | s.b | s.h | s.w) % 2 == 0 &&
         reinterpret_cast<uintptr_t>(s.data) % 4 == 0;
}

// Into how many tiles of equal height to cut images, of which `blocks` blocks side by side do each
// row of tiles and `slots` run at once: as few rows as possible one after the other, with those that
// a tile reads above and below.
inline unsigned tiles_down(int64_t height, int kernel, int64_t blocks, int64_t slots) {
  narrow(height);  // rows and columns are counted in 32 bits
  int64_t best = 1, least = INT64_MAX;
  const int64_t most = std::min(tiles_of(height, 4), tiles_of(8 * slots, blocks));
  for (int64_t down = 1; down <= most; down++) {
    const int64_t rows = tiles_of(blocks * down, slots) * (tiles_of(height, down) + kernel);
    if (rows < least) {
      best = down;
      least = rows;
    }
  }
  return static_cast<unsigned>(best);
}

// The tiles of a convolution: each block has `rows` rows of one image, each thread of it a unit of
// channels and a run of columns.
struct RowTiles {
  unsigned units, runs, across;  // blocks across: of kRowThreads units in all runs
  unsigned down, rows, blocks;
  unsigned staged;     // units whose taps a block may need
  bool channels_last;  // neighbouring threads have neighbouring units, else neighbouring runs
};

inline RowTiles row_tiles(const Strided& x, int64_t B, int64_t units, int64_t H, int64_t W,
                          int kernel, int columns, int64_t slots) {
  RowTiles s{};
  s.units = narrow(units);
  s.runs = narrow(tiles_of(narrow(W), columns));
  s.across = narrow(tiles_of(narrow(units * s.runs), kRowThreads));
  s.rows = narrow(tiles_of(H, tiles_down(H, kernel, B * s.across, slots)));
  s.down = narrow(tiles_of(H, s.rows));
  s.blocks = narrow(B * s.down * s.across);
  s.channels_last = x.c == 1;
  s.staged = s.channels_last ? kRowThreads : (kRowThreads - 1) / s.runs + 2;
  s.staged = std::min(s.staged, s.units);
  return s;
}

// Rows of the sums that a backward pass of these tiles leaves.
inline int64_t summed_rows(const RowTiles& s) {
  return int64_t{s.across ? s.blocks / s.across : 0} * s.runs;
}

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
  constexpr unsigned blocks() const { return groups * chunks; }
  unsigned threads() const { return (lanes * per + 31) / 32 * 32; }
};

inline WeightTiles weight_tiles(const DepthwiseConv& a, int kernel, int64_t multiprocessors) {
  WeightTiles s{};
  s.units = narrow(a.pairs && kernel == 3 ? a.C / 2 : a.C);
  s.runs = narrow(tiles_of(narrow(a.W), columns_for_weight(kernel, a.pairs)));
  s.groups = narrow(a.x.c == 1 ? tiles_of(s.units, kRowThreads) : s.units);
  s.lanes = narrow(tiles_of(s.units, s.groups));
  s.per = std::min(kRowThreads / s.lanes, s.runs);
  s.across = narrow(tiles_of(s.runs, s.per));
  // Narrower blocks leave registers, and shared memory, for more of them.
  const int64_t resident =
      multiprocessors * (resident_for_weight(kernel) * kRowThreads / s.threads());
  const int64_t slots = std::max<int64_t>(1, resident / s.groups);
  s.rows = narrow(tiles_of(a.H, tiles_down(a.H, kernel, a.B * s.across, slots)));
  s.down = narrow(tiles_of(a.H, s.rows));
  s.tiles = narrow(a.B * s.down * s.across);
  s.chunks = narrow(std::min<int64_t>(s.tiles, slots));
  return s;
}

}  // namespace moce
