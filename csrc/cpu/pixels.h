// Pixels of one row between a tensor of any strides and type and a float buffer whose channels are
// adjacent.
#pragma once

#include "bfloat_pairs.h"

namespace moce {
inline namespace MOCE_ISA {

// n <= W channels of `count` pixels: the first channel of the first pixel is at `from`, those of
// the next `pixel` elements further in `to`. Channels from n to W are zero.
template <int W, class T, class To>
void gather_pixels(const T* from, const Strided& s, int n, int count, To* to, int64_t pixel) {
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

template <class E>
struct PixelsOf {
  const E* data;
  int64_t pixel;  // elements from one to the next
};
using Pixels = PixelsOf<float>;

template <class T>
MOCE_INLINE T* pixel_at(const Strided& s, int64_t b, int64_t y, int64_t x) {
  return static_cast<T*>(s.data) + b * s.b + y * s.h + x * s.w;
}

// Whether the kernels may work on the tensor's own memory: floats, channels adjacent, none missing
// to whole vectors.
template <int W, class T>
MOCE_INLINE bool serves(const Strided& s, int64_t C) {
  return sizeof(T) == sizeof(float) && s.c == 1 && C % W == 0;
}

// Zeros from the last vector of C channels to the next pixel.
template <int W, class T>
MOCE_INLINE void clear_operands(int64_t C, int64_t count, Operand<T>* buffer) {
  const int64_t row = operand_row<W, T>(C);
  for (int64_t c = whole<W>(C); c < row; c += W)
    for (int64_t p = 0; p < count; p++) store<W>(buffer + p * row + c, Vec<W>{});
}

// Asks for the pixels of a row that will be read next: strips of columns are too short for the
// hardware to see the next row coming. Does nothing where most of what lies there is not theirs.
template <class T>
MOCE_INLINE void prefetch_pixels(const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x,
                                 int count) {
  if (s.c != 1 || s.w > 2 * C) return;
  const char* from = reinterpret_cast<const char*>(pixel_at<T>(s, b, y, x));
  const int64_t bytes = ((count - 1) * s.w + C) * int64_t{sizeof(T)};
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// C channels of `count` pixels of a row: the tensor's own memory where it serves, else a copy in
// `buffer` with zeros up to whole vectors.
template <int W, class T>
Pixels read_pixels(const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x, int count,
                   float* buffer) {
  T* from = pixel_at<T>(s, b, y, x);
  if (serves<W, T>(s, C)) return {reinterpret_cast<const float*>(from), s.w};
  const int64_t Cp = whole<W>(C);
  for (int64_t c = 0; c < C; c += W)
    gather_pixels<W>(from + c * s.c, s, C - c < W ? int(C - c) : W, count, buffer + c, Cp);
  return {buffer, Cp};
}

// f(pixels) for the same, in the tensor's own memory whatever the type.
template <int W, class T, class F>
MOCE_INLINE void with_pixels(const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x,
                             int count, float* buffer, F&& f) {
  if (s.c == 1 && C % W == 0) f(PixelsOf<T>{pixel_at<T>(s, b, y, x), s.w});
  else f(read_pixels<W, T>(s, C, b, y, x, count, buffer));
}

// The same as multiply_panels takes them.
template <int W, class T>
PixelsOf<Operand<T>> read_operands(const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x,
                                   int count, Operand<T>* buffer) {
  if constexpr (!kPaired<T>) {
    return read_pixels<W, T>(s, C, b, y, x, count, buffer);
  } else {
    T* from = pixel_at<T>(s, b, y, x);
    const int64_t row = operand_row<W, T>(C);
    if (s.c == 1 && row == C && s.w % 2 == 0) return {from, s.w};  // pixels of whole pairs
    for (int64_t c = 0; c < C; c += W)
      gather_pixels<W>(from + c * s.c, s, C - c < W ? int(C - c) : W, count, buffer + c, row);
    clear_operands<W, T>(C, count, buffer);
    return {buffer, row};
  }
}

// Where to put C channels of pixels of a row: the tensor itself where it serves, else `buffer`, from
// which write_pixels takes them.
template <int W, class T>
MOCE_INLINE float* place_for_pixels(const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x,
                                    float* buffer, int64_t& pixel) {
  if (serves<W, T>(s, C)) {
    pixel = s.w;
    return reinterpret_cast<float*>(pixel_at<T>(s, b, y, x));
  }
  pixel = whole<W>(C);
  return buffer;
}
template <int W, class T>
void write_pixels(const float* from, const Strided& s, int64_t C, int64_t b, int64_t y, int64_t x,
                  int count) {
  if (serves<W, T>(s, C)) return;
  T* to = pixel_at<T>(s, b, y, x);
  const int64_t Cp = whole<W>(C);
  for (int64_t c = 0; c < C; c += W)
    scatter_pixels<W>(from + c, Cp, to + c * s.c, s, C - c < W ? int(C - c) : W, count);
}

}  // namespace MOCE_ISA
}  // namespace moce
