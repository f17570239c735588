// The circular convolution of a tile of windows and its gradients, for one element type, MOCE_SCALAR:
// where the elements are, and which way a size of windows goes.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "moce/small_window_fft.h"
#include "window_fft_conv_kernel.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

struct Tile {
  int64_t b, y, x, c;  // the image, the first pixel, the first channel
  int windows;
  int64_t channels;
};

// How many tiles there are; the host does not know how many slots an expert has.
__device__ inline unsigned count_tiles(const WindowFftConv& a, const Tiling& t) {
  return a.order ? static_cast<unsigned>(a.offsets[1] - a.offsets[0]) * t.of_image : t.tiles;
}

template <int P>
__device__ Tile tile_at(const WindowFftConv& a, const Tiling& t, unsigned i) {
  Tile tile;
  tile.c = i % t.groups * t.channels;
  i /= t.groups;
  tile.x = int64_t{i % t.across} * t.windows * P;
  i /= t.across;
  tile.y = int64_t{i % t.down} * P;
  i /= t.down;
  tile.b = a.order ? a.order[a.offsets[0] + i] : i;
  tile.channels = min(t.channels, a.C - tile.c);
  tile.windows = static_cast<int>(min(int64_t{t.windows}, tiles_of(a.W - tile.x, P)));
  return tile;
}

// A tensor of such elements.
template <class E>
struct Of {
  const Windows& tensor;
};

// The convolution of a tile in shared memory, in floats: pixel (y, x) of window w, channel c, at
// data[w window + y row + x column + c].
struct Mixed {
  float* data;
  int window, row, column;
};

// One channel of one window: its elements, and how many rows and columns are within the image. The
// host has seen to it that 32 bits are enough within a window: 64 would cost registers.
template <class E>
struct Window {
  E* data;
  int row, column;
  int rows, columns;

  template <int P>
  __device__ void get_row(int y, float (&x)[P]) const {
    const int present = y < rows ? columns : 0;
    const E* p = data + y * row;
    unroll<P>([&](auto n) {
      constexpr int i = decltype(n)::value;
      x[i] = i < present ? static_cast<float>(p[i * column]) : 0.f;
    });
  }
  template <int P>
  __device__ void put_row(int y, const float (&x)[P]) const {
    constexpr float scale = 1.f / (P * P);
    const int present = y < rows ? columns : 0;
    E* p = data + y * row;
    unroll<P>([&](auto n) {
      constexpr int i = decltype(n)::value;
      if (i < present) p[i * column] = static_cast<E>(x[i] * scale);
    });
  }
};

// Else the compiler would compute all multiples of all strides ahead, and keep them in registers.
__device__ inline int not_ahead(int64_t stride) {
  int value = static_cast<int>(stride);
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// How much of channel c of window w of the tile is within the image; nothing, if there is no such
// channel.
template <int P>
__device__ int rows_of(const WindowFftConv& a, const Tile& tile) {
  return static_cast<int>(min(int64_t{P}, a.H - tile.y));
}
template <int P>
__device__ int columns_of(const WindowFftConv& a, const Tile& tile, int w, int64_t c) {
  return c < tile.channels ? static_cast<int>(min(int64_t{P}, a.W - tile.x - w * P)) : 0;
}
template <int P, class E>
__device__ Window<E> window_of(const WindowFftConv& a, const Of<E>& of, const Tile& tile, int w,
                               int64_t c) {
  const Windows& s = of.tensor;
  E* data = static_cast<E*>(s.data) + tile.b * s.b + (tile.c + c) * s.c + tile.y * s.h +
            (tile.x + w * P) * s.w;
  return {data, not_ahead(s.h), not_ahead(s.w), rows_of<P>(a, tile), columns_of<P>(a, tile, w, c)};
}
template <int P>
__device__ Window<float> window_of(const WindowFftConv& a, const Mixed& m, const Tile& tile, int w,
                                   int64_t c) {
  return {m.data + w * m.window + c, not_ahead(m.row), not_ahead(m.column), rows_of<P>(a, tile),
          columns_of<P>(a, tile, w, c)};
}

}  // namespace
}  // namespace moce

#include "window_in_registers.h"
#include "window_rows_columns.h"

namespace moce {
namespace {

// `convolve` puts q (*) k to `out`, `correlate` makes dq and dk of `grad`; both are a tensor or Mixed.
template <int P>
using Way = std::conditional_t<P == 4, InRegisters<P>, InRowsAndColumns<P>>;

// Blocks on a multiprocessor, as many as there may be without spills.
template <int P>
constexpr int kBlocks = P == 4 ? 4 : P == 8 ? 10 : P == 16 ? 5 : 3;

// Calls f(Int<window>).
template <class F>
void with_window(int window, F&& f) {
  switch (window) {
    case 4: return f(Int<4>{});
    case 8: return f(Int<8>{});
    case 16: return f(Int<16>{});
    default: return f(Int<32>{});
  }
}

}  // namespace
}  // namespace moce
