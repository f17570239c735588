// Depthwise K x K convolution (stride 1, zero padding K/2) of W channels, one in each lane, and the
// gradient of its weights, on a rectangle of one image.
//
// The K input rows that an output row needs stand in a ring in scratch, as float vectors with the
// padding around: every element is read and converted once, whatever its type and strides, and the
// inner loops know one layout. A rectangle of 64 columns keeps the ring in a first-level cache.
//
// Weights and their gradients are packed: K * K + 1 vectors, tap (ky, kx) at ky * K + kx, the bias
// last.
#pragma once

#include "image_rows.h"

namespace moce {
inline namespace MOCE_ISA {

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

  // Adds to dweight (packed) what a row of the gradient of the output gives, with the input's rows
  // first <= i < last of those that it was made of.
  static void add_weight_gradient(const float* const (&rows)[K], int first, int last,
                                  const float* grad, int64_t columns, float* dweight) {
    // Rows at a time: enough sums to hide the latency of an addition, few enough for registers.
    constexpr int R = K == 3 ? 3 : kRegisters >= 32 ? 2 : 1;
    constexpr int N = R == 1 ? 8 : 4;
    int ky = first;
    for (; ky + R <= last; ky += R)
      correlate_row<R, N>(rows + ky, grad, columns, dweight + ky * K * W);
    for (; ky < last; ky++) correlate_row<1, 8>(rows + ky, grad, columns, dweight + ky * K * W);
    V sum[4] = {};
    int64_t at = 0;
    for (; at + 4 <= columns; at += 4)
      unroll<4>([&](auto i) MOCE_INLINE_LAMBDA {
        sum[decltype(i)::value] += load<W>(grad + (at + decltype(i)::value) * W);
      });
    for (; at < columns; at++) sum[0] += load<W>(grad + at * W);
    float* dbias = dweight + K * K * W;
    store<W>(dbias, load<W>(dbias) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }

  // Adds to dweight (packed) what the pixels of grad, the gradient of the output, within r give.
  static void backward_weight(const Image& x, const Image& grad, const Rectangle& r,
                              float* dweight, float* scratch) {
    const int64_t columns = r.x1 - r.x0;
    float* line = scratch + K * row_floats(columns);
    Ring ring(x, r, scratch);
    for (int64_t y = r.y0; y < r.y1; y++) {
      const float* rows[K];
      int ky, last;
      ring.window(y, rows, ky, last);
      Rows<W>::read(grad, y, r.x0, r.x1, line);
      add_weight_gradient(rows, ky, last, line, columns, dweight);
    }
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
