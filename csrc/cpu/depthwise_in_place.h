// As depthwise.h, on the tensors where they are, which must have adjacent channels. The caller takes
// block after block of a strip of pixels, so that memory is walked through as it lies. Faster where
// memory and not arithmetic is the limit: 3 x 3 with 32 registers of 16 lanes, by a half.
#pragma once

#include "image_rows.h"

namespace moce {
inline namespace MOCE_ISA {

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
