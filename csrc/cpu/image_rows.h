// Rows of an image between a tensor of any strides and type and a float buffer, W channels of a pixel
// in a vector.
#pragma once

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

// n <= W channels of one image of H x W pixels: pixel (y, x) of channel i is data[i c + y h + x w].
struct Image {
  Type type;
  void* data;
  int64_t c, h, w;
  int n;
  int64_t H, W;

  template <class T>
  MOCE_INLINE T* at(int64_t y, int64_t x) const {
    return static_cast<T*>(data) + y * h + x * w;
  }
};

struct Rectangle {
  int64_t y0, y1, x0, x1;
};

template <int W>
struct Rows {
  using V = Vec<W>;

  // Pixels x0 <= x < x1 of row y as vectors. Lanes beyond the last channel hold anything.
  static MOCE_NOINLINE void read(const Image& s, int64_t y, int64_t x0, int64_t x1, float* to) {
    with_type(s.type, [&](auto t) { read<decltype(t)>(s, y, x0, x1, to); });
  }
  // The reverse; nothing else is written.
  static MOCE_NOINLINE void write(const float* from, const Image& s, int64_t y, int64_t x0,
                                  int64_t x1) {
    with_type(s.type, [&](auto t) { write<decltype(t)>(from, s, y, x0, x1); });
  }

 private:
  template <class T>
  static void read(const Image& s, int64_t y, int64_t x0, int64_t x1, float* to) {
    const T* p = s.at<T>(y, x0);
    int64_t x = x0;
    if (s.c == 1) {
      // A whole vector may be loaded as long as it ends within the image's memory.
      const T* end = s.at<T>(s.H - 1, s.W - 1) + s.n;
      const int64_t next = y + 1 < s.H ? s.h : 0;
      for (; x < x1 && p + W <= end; x++, p += s.w, to += W) {
        // The hardware does not see the next row coming, which is a block of lanes at each pixel.
        __builtin_prefetch(p + next, 0, 2);
        store<W>(to, load<W>(p));
      }
      for (; x < x1; x++, p += s.w, to += W) store<W>(to, load_first<W>(p, s.n));
      return;
    }
    if (s.w == 1) {
      for (; x + W <= x1; x += W, p += W, to += W * W) {
        V r[W];
        unroll<W>([&](auto i) MOCE_INLINE_LAMBDA {
          constexpr int j = decltype(i)::value;
          r[j] = j < s.n ? load<W>(p + j * s.c) : V{};
        });
        transpose<W>(r);
        unroll<W>([&](auto i) MOCE_INLINE_LAMBDA {
          store<W>(to + decltype(i)::value * W, r[decltype(i)::value]);
        });
      }
    }
    for (; x < x1; x++, p += s.w, to += W) {
      T few[W] = {};
      for (int i = 0; i < s.n; i++) few[i] = p[i * s.c];
      store<W>(to, load<W>(few));
    }
  }

  template <class T>
  static void write(const float* from, const Image& s, int64_t y, int64_t x0, int64_t x1) {
    T* p = s.at<T>(y, x0);
    int64_t x = x0;
    if (s.c == 1) {
      if (s.n == W)
        for (; x < x1; x++, p += s.w, from += W) store<W>(p, load<W>(from));
      else
        for (; x < x1; x++, p += s.w, from += W) put_first(p, load<W>(from), s.n);
      return;
    }
    if (s.w == 1) {
      for (; x + W <= x1; x += W, p += W, from += W * W) {
        V r[W];
        unroll<W>([&](auto i) MOCE_INLINE_LAMBDA {
          r[decltype(i)::value] = load<W>(from + decltype(i)::value * W);
        });
        transpose<W>(r);
        unroll<W>([&](auto i) MOCE_INLINE_LAMBDA {
          constexpr int j = decltype(i)::value;
          if (j < s.n) store<W>(p + j * s.c, r[j]);
        });
      }
    }
    for (; x < x1; x++, p += s.w, from += W) {
      T few[W];
      store<W>(few, load<W>(from));
      for (int i = 0; i < s.n; i++) p[i * s.c] = few[i];
    }
  }

  // The first n < W lanes, in pieces of 8, 4, 2 and 1.
  template <class T>
  static MOCE_INLINE void put_first(T* p, V x, int n) {
    T few[W];
    store<W>(few, x);
    const T* from = few;
    if constexpr (W > 8)
      if (n & 8) put<8>(p, from);
    if constexpr (W > 4)
      if (n & 4) put<4>(p, from);
    if (n & 2) put<2>(p, from);
    if (n & 1) put<1>(p, from);
  }
  template <int N, class T>
  static MOCE_INLINE void put(T*& to, const T*& from) {
    __builtin_memcpy(to, from, N * sizeof(T));
    to += N;
    from += N;
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
