// The circular convolution of a tile of windows and its gradients, for one element type, MOCE_SCALAR:
// where the elements are, and which way a size of windows goes.
#pragma once

#include <type_traits>

#include "packed.h"
#include "small_window_fft.h"
#include "window_tiling.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

struct Tile {
  int b, y, x, c;  // the image, the first pixel, the first channel
  int windows, channels;
};

template <int P>
__device__ Tile tile_at(const WindowFftConv& a, const Tiling& t, unsigned i) {
  Tile tile;
  tile.c = static_cast<int>(t.groups.divide(i)) * t.channels;
  tile.x = static_cast<int>(t.across.divide(i)) * t.windows * P;
  tile.y = static_cast<int>(t.down.divide(i)) * P;
  tile.b = static_cast<int>(i);
  tile.channels = min(t.channels, t.C - tile.c);
  tile.windows = min(t.windows, (a.W - tile.x + P - 1) / P);
  return tile;
}

// Where a pixel of a tensor has its first channel.
template <class E>
__device__ E* pixel_of(const Windows& s, int b, int y, int x) {
  return static_cast<E*>(s.data) + (b * s.b + int64_t{y} * s.h + int64_t{x} * s.w);
}

// A tensor of such elements.
template <class E>
struct Of {
  const Windows& tensor;
};

// The convolution of a tile in shared memory, from so many floats on: of two neighbouring pixels, a
// slot, channel c has the floats 2 (c % G) and the next, G channels in a group. Unnormalised. Numbers in
// place of pointers, of which the compiler would not know that they point to shared memory.
struct Mixed {
  int start, slot;
};

// A pair of channels of one window: its elements, and how many rows, columns and channels of them are
// within the image. The host has seen to it that 32 bits are enough within a window: 64 would cost
// registers.
template <class E>
struct Window {
  E* data;
  int row, column;
  int64_t next;   // channel
  bool together;  // two channels at once
  int rows, columns, channels;

  __device__ bool has(int y, int x) const { return y < rows && x < columns; }
  // Two channels at once, or one by one.
  template <bool Together>
  __device__ Packed<E, 2> get(int y, int x) const {
    Packed<E, 2> pair{};
    const E* p = data + y * row + x * column;
    if constexpr (Together) {
      if (has(y, x)) pair = load_packed<E, 2>(p);
    } else {
      E elements[2] = {static_cast<E>(0.f), static_cast<E>(0.f)};
      if (has(y, x) && channels > 0) elements[0] = p[0];
      if (has(y, x) && channels > 1) elements[1] = p[next];
      __builtin_memcpy(&pair.word, elements, sizeof elements);
    }
    return pair;
  }
  template <int P>
  __device__ void put_row(int y, const Pair (&values)[P]) const {
    constexpr float scale = 1.f / (P * P);
    const int present = y < rows ? columns : 0;
    E* p = data + y * row;
    if (together && channels == 2)
      unroll<P>([&](auto n) {
        constexpr int x = decltype(n)::value;
        const float scaled[2] = {values[x].a * scale, values[x].b * scale};
        if (x < present) store_packed<E, 2>(p + x * column, scaled);
      });
    else
      unroll<P>([&](auto n) {
        constexpr int x = decltype(n)::value;
        if (x < present && channels > 0) p[x * column] = static_cast<E>(values[x].a * scale);
        if (x < present && channels > 1) p[x * column + next] = static_cast<E>(values[x].b * scale);
      });
  }
};

// A number or pointer that the compiler knows nothing of. Else it would compute all multiples of all
// strides ahead, and keep them in registers.
__device__ inline int opaque(int value) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(value));
#endif
  return value;
}
__device__ inline uint2 opaque(uint2 words) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(words.x), "+r"(words.y));
#endif
  return words;
}
__device__ inline uint4 opaque(uint4 words) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
#endif
  return words;
}
template <class E>
__device__ E* opaque(E* pointer) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+l"(pointer));
#endif
  return pointer;
}

// Nor would it leave accesses to memory on this side of what they come after.
__device__ inline void keep_order() {
#ifndef MOCE_EMULATED
  asm volatile("" ::: "memory");
#endif
}

// Channels c and c + 1 of window w of the tile; nothing of it, if there are no such channels.
template <int P, class E>
__device__ Window<E> window_of(const WindowFftConv& a, const Of<E>& of, const Tile& tile, int w,
                               int c) {
  const Windows& s = of.tensor;
  const int channels = min(2, tile.channels - c);
  return {pixel_of<E>(s, tile.b, tile.y, tile.x) + ((tile.c + c) * s.c + int64_t{w * P} * s.w),
          opaque(s.h),
          opaque(s.w),
          s.c,
          s.chunk >= 2 * int{sizeof(E)},
          min(P, a.H - tile.y),
          channels > 0 ? min(P, a.W - tile.x - w * P) : 0,
          channels};
}

}  // namespace
}  // namespace moce

#include "window_in_registers.h"
#include "window_rows_columns.h"

namespace moce {
namespace {

// `convolve` puts q (*) k to `out`, `correlate` makes dq and dk of `grad`; both are a tensor or Mixed.
// The threads of a part of the block do so for some channels of a tile.
template <int P>
using Way = std::conditional_t<P == 4, InRegisters<P>, InRowsAndColumns<P>>;

// Calls f(Int<window>).
template <class F>
MOCE_INLINE void with_window(int window, F&& f) {
  switch (window) {
    case 4: return f(Int<4>{});
    case 8: return f(Int<8>{});
    case 16: return f(Int<16>{});
    default: return f(Int<32>{});
  }
}

}  // namespace
}  // namespace moce
