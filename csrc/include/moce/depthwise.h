// Depthwise K x K convolution (stride 1, zero padding K/2) of W channels, one in each lane, and the
// gradient of its weights, on a rectangle of one image. Two ways:
//
// Depthwise: the K input rows that an output row needs stand in a ring in scratch, as float vectors
// with the padding around: every element is read and converted once, whatever its type and strides,
// and the inner loops know one layout. A rectangle of 64 columns keeps the ring in a first-level
// cache.
//
// DepthwiseInPlace: reads the tensors where they are, which must have adjacent channels. The caller
// takes block after block of a strip of pixels, so that memory is walked through as it lies. Faster
// where memory and not arithmetic is the limit: 3 x 3 with 32 registers of 16 lanes, by a half.
//
// Weights and their gradients are packed: K * K + 1 vectors, tap (ky, kx) at ky * K + kx, the bias
// last.
#pragma once

#include "moce/simd.h"

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

template <int K, int W>
struct Depthwise {
  using V = Vec<W>;
  static constexpr int kPad = K / 2;
  static constexpr int kPacked = (K * K + 1) * W;  // floats
  static constexpr int kStrip = 8, kTail = 4;      // output pixels computed together

  static constexpr int64_t row_floats(int64_t columns) {
    return (columns + K - 1 + kTail - 1) * W;
  }
  // Floats of scratch for rectangles of so many columns.
  static constexpr int64_t scratch(int64_t columns) { return (K + 1) * row_floats(columns); }

  // The input rows of a rectangle; row y is in place y mod K.
  struct Ring {
    const Image& x;
    const Rectangle& r;
    float* data;
    int64_t row;

    Ring(const Image& x, const Rectangle& r, float* data)
        : x(x), r(r), data(data), row(row_floats(r.x1 - r.x0)) {
      for (int64_t y = r.y0 < kPad ? 0 : r.y0 - kPad; y < r.y0 + kPad; y++) read(y);
    }
    void read(int64_t y) {
      if (y >= x.H) return;
      float* p = data + y % K * row;
      const int64_t x0 = r.x0 < kPad ? 0 : r.x0 - kPad, x1 = r.x1 + kPad < x.W ? r.x1 + kPad : x.W;
      float *from = p + (x0 - (r.x0 - kPad)) * W, *to = from + (x1 - x0) * W;
      for (float* q = p; q < from; q += W) store<W>(q, V{});
      Rows<W>::read(x, y, x0, x1, from);
      for (float* q = to; q < p + row; q += W) store<W>(q, V{});
    }
    // Rows y - kPad ... y + kPad, of which first <= i < last exist.
    void window(int64_t y, const float* (&rows)[K], int& first, int& last) {
      read(y + kPad);
      first = y < kPad ? int(kPad - y) : 0;
      last = y + kPad < x.H ? K : int(x.H - y) + kPad;
      for (int i = first; i < last; i++) rows[i] = data + (y - kPad + i) % K * row;
    }
  };

  // N outputs of one row from pixels at ... at + N + K - 1 of the ring's rows.
  template <int N, class Put>
  static MOCE_INLINE void strip(const float* const (&rows)[K], int first, int last, int64_t at,
                                const float* weight, Put&& put) {
    V sum[N];
    const V bias = load<W>(weight + K * K * W);
    unroll<N>([&](auto i) MOCE_INLINE_LAMBDA { sum[decltype(i)::value] = bias; });
    for (int ky = first; ky < last; ky++) {
      const float* p = rows[ky] + at * W;
      V tap[K];
      unroll<K>([&](auto kx) MOCE_INLINE_LAMBDA {
        tap[decltype(kx)::value] = load<W>(weight + (ky * K + decltype(kx)::value) * W);
      });
      unroll<N + K - 1>([&](auto i) MOCE_INLINE_LAMBDA {
        const V pixel = load<W>(p + decltype(i)::value * W);
        unroll<K>([&](auto kx) MOCE_INLINE_LAMBDA {
          constexpr int j = decltype(i)::value - decltype(kx)::value;
          if constexpr (j >= 0 && j < N) sum[j] += pixel * tap[decltype(kx)::value];
        });
      });
    }
    unroll<N>([&](auto i) MOCE_INLINE_LAMBDA { put(i, sum[decltype(i)::value]); });
  }

  // out = x convolved with the weights, plus bias, within r.
  static void forward(const Image& x, const Image& out, const Rectangle& r, const float* weight,
                      float* scratch) {
    const int64_t columns = r.x1 - r.x0;
    // Into the tensor itself where whole vectors go there. For the narrow vectors of a last block
    // this is compiled for floats alone.
    const bool direct =
        out.c == 1 && out.n == W && (W == MOCE_LANES || out.type == Type::kFloat);
    float* line = scratch + K * row_floats(columns);
    Ring ring(x, r, scratch);
    for (int64_t y = r.y0; y < r.y1; y++) {
      const float* rows[K];
      int first, last;
      ring.window(y, rows, first, last);
      int64_t done = 0;
      if (direct) {
        const auto store_row = [&](auto* to) {
          done = strips(rows, first, last, 0, columns / kTail * kTail, weight, to, out.w);
        };
        if constexpr (W == MOCE_LANES)
          with_type(out.type, [&](auto t) { store_row(out.at<decltype(t)>(y, r.x0)); });
        else store_row(out.at<float>(y, r.x0));
      }
      strips(rows, first, last, done, columns, weight, line, W);
      Rows<W>::write(line + done * W, out, y, r.x0 + done, r.x1);
    }
  }
  // Outputs from `at` on, in whole groups of kTail; returns where the next one would be.
  template <class T>
  static MOCE_INLINE int64_t strips(const float* const (&rows)[K], int first, int last, int64_t at,
                                    int64_t columns, const float* weight, T* to, int64_t pixel) {
    const auto put = [&](auto i, V v) MOCE_INLINE_LAMBDA {
      store<W>(to + (at + decltype(i)::value) * pixel, v);
    };
    for (; at + kStrip <= columns; at += kStrip)
      strip<kStrip>(rows, first, last, at, weight, put);
    for (; at < columns; at += kTail) strip<kTail>(rows, first, last, at, weight, put);
    return at;
  }

  // Adds N pixels' products at a time, of one row of the gradient and R rows of x.
  template <int R, int N>
  static MOCE_INLINE int64_t correlate(const float* const* rows, const float* grad, int64_t at,
                                       int64_t columns, V (&sum)[R][K]) {
    for (; at + N <= columns; at += N) {
      V g[N];
      unroll<N>([&](auto i) MOCE_INLINE_LAMBDA {
        g[decltype(i)::value] = load<W>(grad + (at + decltype(i)::value) * W);
      });
      unroll<R>([&](auto ky) MOCE_INLINE_LAMBDA {
        constexpr int row = decltype(ky)::value;
        const float* p = rows[row] + at * W;
        unroll<N + K - 1>([&](auto i) MOCE_INLINE_LAMBDA {
          const V pixel = load<W>(p + decltype(i)::value * W);
          unroll<K>([&](auto kx) MOCE_INLINE_LAMBDA {
            constexpr int j = decltype(i)::value - decltype(kx)::value;
            if constexpr (j >= 0 && j < N)
              sum[row][decltype(kx)::value] += pixel * g[j];
          });
        });
      });
    }
    return at;
  }
  template <int R, int N>
  static MOCE_NOINLINE void correlate_row(const float* const* rows, const float* grad,
                                          int64_t columns, float* dweight) {
    V sum[R][K] = {};
    const int64_t at = correlate<R, N>(rows, grad, 0, columns, sum);
    correlate<R, 1>(rows, grad, at, columns, sum);
    unroll<R * K>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int j = decltype(i)::value;
      store<W>(dweight + j * W, load<W>(dweight + j * W) + sum[j / K][j % K]);
    });
  }

  // Adds to dweight (packed) what the pixels of grad, the gradient of the output, within r give.
  static void backward_weight(const Image& x, const Image& grad, const Rectangle& r,
                              float* dweight, float* scratch) {
    // Rows at a time: enough sums to hide the latency of an addition, few enough for registers.
    constexpr int R = K == 3 ? 3 : MOCE_LANES >= 16 ? 2 : 1;
    constexpr int N = R == 1 ? 8 : 4;
    const int64_t columns = r.x1 - r.x0;
    float* line = scratch + K * row_floats(columns);
    Ring ring(x, r, scratch);
    for (int64_t y = r.y0; y < r.y1; y++) {
      const float* rows[K];
      int ky, last;
      ring.window(y, rows, ky, last);
      Rows<W>::read(grad, y, r.x0, r.x1, line);
      for (; ky + R <= last; ky += R)
        correlate_row<R, N>(rows + ky, line, columns, dweight + ky * K * W);
      for (; ky < last; ky++) correlate_row<1, 8>(rows + ky, line, columns, dweight + ky * K * W);
      V sum[4] = {};
      int64_t at = 0;
      for (; at + 4 <= columns; at += 4)
        unroll<4>([&](auto i) MOCE_INLINE_LAMBDA {
          sum[decltype(i)::value] += load<W>(line + (at + decltype(i)::value) * W);
        });
      for (; at < columns; at++) sum[0] += load<W>(line + at * W);
      float* dbias = dweight + K * K * W;
      store<W>(dbias, load<W>(dbias) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
  }
};

template <int K, int W, class T>
struct DepthwiseInPlace {
  using V = Vec<W>;
  static constexpr int kPad = K / 2;

  // Calls f(Int<rows>, Int<pixels>, y, x) for small rectangles of outputs that fill r.
  template <class F>
  static MOCE_INLINE void for_strips(const Rectangle& r, F&& f) {
    int64_t y = r.y0;
    const auto row = [&](auto rows) MOCE_INLINE_LAMBDA {
      int64_t x = r.x0;
      for (; x + 8 <= r.x1; x += 8) f(rows, Int<8>{}, y, x);
      for (; x + 4 <= r.x1; x += 4) f(rows, Int<4>{}, y, x);
      for (; x < r.x1; x++) f(rows, Int<1>{}, y, x);
    };
    for (; y + 2 <= r.y1; y += 2) row(Int<2>{});
    if (y < r.y1) row(Int<1>{});
  }

  // Calls f(row, column, pixel) for the pixels of x that R x N outputs at (y0, x0) need; row and
  // column count from the first that they would need, (y0 - kPad, x0 - kPad).
  template <int R, int N, class F>
  static MOCE_INLINE void for_pixels(const Image& x, int64_t y0, int64_t x0, F&& f) {
    static constexpr T zeros[W] = {};  // what the padding's columns hold
    unroll<R + K - 1>([&](auto row) MOCE_INLINE_LAMBDA {
      const int64_t y = y0 - kPad + decltype(row)::value;
      if (y < 0 || y >= x.H) return;
      const T* p = x.at<T>(y, x0 - kPad);
      unroll<N + K - 1>([&](auto column) MOCE_INLINE_LAMBDA {
        constexpr int i = decltype(column)::value;
        const T* q = p + i * x.w;
        if constexpr (i < kPad) q = x0 - kPad + i >= 0 ? q : zeros;
        if constexpr (i >= N + kPad) q = x0 - kPad + i < x.W ? q : zeros;
        f(row, column, load<W>(q));
      });
    });
  }

  // The R x N outputs at (y0, x0).
  template <int R, int N>
  static MOCE_NOINLINE void forward(const Image& x, const Image& out, int64_t y0, int64_t x0,
                                    const float* weight) {
    V sum[R][N], tap[K * K];
    unroll<K * K>([&](auto k) MOCE_INLINE_LAMBDA {
      tap[decltype(k)::value] = load<W>(weight + decltype(k)::value * W);
    });
    const V bias = load<W>(weight + K * K * W);
    unroll<R * N>([&](auto i) MOCE_INLINE_LAMBDA {
      sum[decltype(i)::value / N][decltype(i)::value % N] = bias;
    });
    for_pixels<R, N>(x, y0, x0, [&](auto row, auto column, V pixel) MOCE_INLINE_LAMBDA {
      unroll<R * K>([&](auto i) MOCE_INLINE_LAMBDA {
        constexpr int r = decltype(i)::value / K, kx = decltype(i)::value % K;
        constexpr int ky = decltype(row)::value - r, j = decltype(column)::value - kx;
        if constexpr (ky >= 0 && ky < K && j >= 0 && j < N) sum[r][j] += pixel * tap[ky * K + kx];
      });
    });
    unroll<R * N>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int r = decltype(i)::value / N, j = decltype(i)::value % N;
      store<W>(out.at<T>(y0 + r, x0 + j), sum[r][j]);
    });
  }

  // Adds to dweight (packed) what R x N pixels of grad at (y0, x0) give.
  template <int R, int N>
  static MOCE_NOINLINE void backward_weight(const Image& x, const Image& grad, int64_t y0,
                                            int64_t x0, float* dweight) {
    V g[R][N], sum[K * K], total{};
    unroll<R * N>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int r = decltype(i)::value / N, j = decltype(i)::value % N;
      g[r][j] = load<W>(grad.at<T>(y0 + r, x0 + j));
      total += g[r][j];
    });
    unroll<K * K>([&](auto k) MOCE_INLINE_LAMBDA {
      sum[decltype(k)::value] = load<W>(dweight + decltype(k)::value * W);
    });
    for_pixels<R, N>(x, y0, x0, [&](auto row, auto column, V pixel) MOCE_INLINE_LAMBDA {
      unroll<R * K>([&](auto i) MOCE_INLINE_LAMBDA {
        constexpr int r = decltype(i)::value / K, kx = decltype(i)::value % K;
        constexpr int ky = decltype(row)::value - r, j = decltype(column)::value - kx;
        if constexpr (ky >= 0 && ky < K && j >= 0 && j < N) sum[ky * K + kx] += pixel * g[r][j];
      });
    });
    unroll<K * K>([&](auto k) MOCE_INLINE_LAMBDA {
      store<W>(dweight + decltype(k)::value * W, sum[decltype(k)::value]);
    });
    float* dbias = dweight + K * K * W;
    store<W>(dbias, load<W>(dbias) + total);
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
