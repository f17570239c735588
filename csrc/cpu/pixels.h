// Pixels of one row between a tensor of any strides and type and a float buffer whose channels are
// adjacent.
#pragma once

#include "moce/simd.h"
#include "moce/types.h"

namespace moce {
inline namespace MOCE_ISA {

// n <= W channels of `count` pixels: the first channel of the first pixel is at `from`, those of
// the next `pixel` floats further in `to`. Channels from n to W are zero.
template <int W, class T>
void gather_pixels(const T* from, const Strided& s, int n, int count, float* to, int64_t pixel) {
  if (s.c == 1 && n == W) {
    for (int c = 0; c < count; c++) store<W>(to + c * pixel, load<W>(from + c * s.w));
  } else if (s.c == 1) {
    for (int c = 0; c < count; c++) store<W>(to + c * pixel, load_first<W>(from + c * s.w, n));
  } else if (s.w == 1) {
    for (int c = 0; c < count; c += W) {
      const int m = count - c < W ? count - c : W;
      Vec<W> square[W];
      for (int i = 0; i < W; i++) {
        const T* p = from + i * s.c + c;
        square[i] = i >= n ? Vec<W>{} : m == W ? load<W>(p) : load_first<W>(p, m);
      }
      transpose<W>(square);
      for (int i = 0; i < m; i++) store<W>(to + (c + i) * pixel, square[i]);
    }
  } else {
    for (int c = 0; c < count; c++) {
      T few[W] = {};
      for (int i = 0; i < n; i++) few[i] = from[i * s.c + c * s.w];
      store<W>(to + c * pixel, load<W>(few));
    }
  }
}

// The way back. Outputs are dense: their channels or their columns are adjacent.
template <int W, class T>
void scatter_pixels(const float* from, int64_t pixel, T* to, const Strided& s, int n, int count) {
  if (s.c == 1 && n == W) {
    for (int c = 0; c < count; c++) store<W>(to + c * s.w, load<W>(from + c * pixel));
  } else if (s.c == 1) {
    for (int c = 0; c < count; c++) store_first<W>(to + c * s.w, load<W>(from + c * pixel), n);
  } else {
    for (int c = 0; c < count; c += W) {
      const int m = count - c < W ? count - c : W;
      Vec<W> square[W];
      for (int i = 0; i < W; i++) square[i] = i < m ? load<W>(from + (c + i) * pixel) : Vec<W>{};
      transpose<W>(square);
      for (int i = 0; i < n; i++) {
        T* p = to + i * s.c + c;
        if (m == W) store<W>(p, square[i]);
        else store_first<W>(p, square[i], m);
      }
    }
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
