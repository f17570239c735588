// Matrix products on float buffers whose channels are adjacent.
//
// A buffer of pixels: channel c of pixel p lies at data + p * pixel + c. Output channels come in
// whole vectors of W; where there are fewer, weights are zero. All products keep a tile of pixels x
// vectors in registers and run over the inner dimension.
#pragma once

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kTilePixels = 6, kTileVectors = kRegisters >= 32 ? 4 : 2;

// f(i, Int<n>) for i < count in steps of kTilePixels, or of twice as many next to a single Vector:
// fewer sums would not hide the latency of an addition. The last steps may be smaller.
template <int Vectors, class F>
MOCE_INLINE void for_tiles(int64_t count, F&& f) {
  static_assert(kTilePixels == 6);
  int64_t i = 0;
  if constexpr (Vectors == 1)
    for (; i + 12 <= count; i += 12) f(i, Int<12>{});
  for (; i + 6 <= count; i += 6) f(i, Int<6>{});
  switch (count - i) {
    case 5: return f(i, Int<5>{});
    case 4: return f(i, Int<4>{});
    case 3: return f(i, Int<3>{});
    case 2: return f(i, Int<2>{});
    case 1: return f(i, Int<1>{});
  }
}

template <int W, int M, int N>
MOCE_INLINE void multiply_tile(const float* in, int64_t in_pixel, int64_t inner,
                               const float* weight, int64_t weight_row, const float* bias,
                               const float* start, int64_t start_pixel, float* out,
                               int64_t out_pixel, int64_t out_vector) {
  Vec<W> sum[M][N];
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) sum[m][n] = bias ? load<W>(bias + n * W) : Vec<W>{};
  for (int64_t k = 0; k < inner; k++, weight += weight_row) {
    Vec<W> row[N];
    for (int n = 0; n < N; n++) row[n] = load<W>(weight + n * W);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m][n] += in[m * in_pixel + k] * row[n];
  }
  if (start)
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m][n] += load<W>(start + m * start_pixel + n * W);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) store<W>(out + m * out_pixel + n * out_vector, sum[m][n]);
}

template <int W, int N>
void multiply_columns(const float* in, int64_t in_pixel, int64_t inner, const float* weight,
                      int64_t weight_row, const float* bias, const float* start,
                      int64_t start_pixel, float* out, int64_t out_pixel, int64_t out_vector,
                      int count) {
  for_tiles<N>(count, [&](int64_t p, auto M) MOCE_INLINE_LAMBDA {
    multiply_tile<W, decltype(M)::value, N>(in + p * in_pixel, in_pixel, inner, weight, weight_row,
                                            bias, start ? start + p * start_pixel : nullptr,
                                            start_pixel, out + p * out_pixel, out_pixel,
                                            out_vector);
  });
}

// f(n0, Int<N>) for n0 over `vectors` in steps of N <= kTileVectors.
template <class F>
MOCE_INLINE void for_vector_tiles(int64_t vectors, F&& f) {
  for (int64_t n = 0; n < vectors; n += kTileVectors) {
    const int64_t step = vectors - n;
    if (step >= kTileVectors) f(n, Int<kTileVectors>{});
    else if (step == 1) f(n, Int<1>{});
    else if constexpr (kTileVectors > 2) step == 2 ? f(n, Int<2>{}) : f(n, Int<3>{});
  }
}

// out[p][:] = in[p][:] weight (+ bias), or += with Add. weight: (inner, channels).
template <int W, bool Add = false>
MOCE_NOINLINE void multiply_pixels(const float* in, int64_t in_pixel, int64_t inner,
                                   const float* weight, int64_t channels, const float* bias,
                                   float* out, int64_t out_pixel, int count) {
  for_vector_tiles(channels / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
    multiply_columns<W, decltype(N)::value>(in, in_pixel, inner, weight + n * W, channels,
                                            bias ? bias + n * W : nullptr,
                                            Add ? out + n * W : nullptr, out_pixel, out + n * W,
                                            out_pixel, W, count);
  });
}

// to[k * to_row + i] = from[i * from_row + k] for k < columns and i < rows, zero for i up to W.
template <int W>
MOCE_NOINLINE void transpose_rows(const float* from, int64_t from_row, int rows, int64_t columns,
                                  float* to, int64_t to_row) {
  for (int64_t k = 0; k < columns; k += W) {
    const int n = columns - k < W ? int(columns - k) : W;
    Vec<W> square[W];
    for (int i = 0; i < W; i++) {
      const float* row = from + i * from_row + k;
      square[i] = i >= rows ? Vec<W>{} : n == W ? load<W>(row) : load_first<W>(row, n);
    }
    transpose<W>(square);
    for (int i = 0; i < n; i++) store<W>(to + (k + i) * to_row, square[i]);
  }
}

// A matrix (inner, whole(channels)) in panels of kTileVectors vectors, one after the other, each
// read from front to end: to = from[k * row + n * column], zeros beyond its channels.
template <int W>
MOCE_NOINLINE void pack_panels(const float* from, int64_t inner, int64_t channels, int64_t row,
                               int64_t column, float* to) {
  constexpr int64_t panel = kTileVectors * W;
  for (int64_t n0 = 0; n0 < whole<W>(channels); n0 += panel) {
    const int64_t width = whole<W>(channels) - n0 < panel ? whole<W>(channels) - n0 : panel;
    float* panel_at = to + n0 * inner;
    if (row == 1) {
      for (int64_t n = n0; n < n0 + width; n += W)
        transpose_rows<W>(from + n * column, column, channels - n < W ? int(channels - n) : W,
                          inner, panel_at + (n - n0), width);
      continue;
    }
    for (int64_t k = 0; k < inner; k++)
      for (int64_t n = n0; n < n0 + width; n++)
        *panel_at++ = n < channels ? from[k * row + n * column] : 0.f;
  }
}

// out[p][:] = in[p][:] panels (+ bias) (+ start[p][:]). bias has whole vectors; start may be out.
// The vectors of a pixel's outputs are out_vector floats apart.
template <int W>
MOCE_NOINLINE void multiply_panels(const float* in, int64_t in_pixel, int64_t inner,
                                   const float* panels, int64_t channels, const float* bias,
                                   const float* start, int64_t start_pixel, float* out,
                                   int64_t out_pixel, int count, int64_t out_vector = W) {
  for_vector_tiles(whole<W>(channels) / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
    constexpr int width = decltype(N)::value;
    multiply_columns<W, width>(in, in_pixel, inner, panels + n * W * inner, width * W,
                               bias ? bias + n * W : nullptr, start ? start + n * W : nullptr,
                               start_pixel, out + n * out_vector, out_pixel, out_vector, count);
  });
}

template <int W, int M, int N>
MOCE_INLINE void outer_tile(const float* a, int64_t a_pixel, const float* b, int64_t b_pixel,
                            int count, float* sum, int64_t sum_row) {
  Vec<W> tile[M][N] = {};  // of these pixels alone: a long sum loses more
  for (int p = 0; p < count; p++) {
    Vec<W> row[N];
    for (int n = 0; n < N; n++) row[n] = load<W>(b + p * b_pixel + n * W);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) tile[m][n] += a[p * a_pixel + m] * row[n];
  }
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      float* to = sum + m * sum_row + n * W;
      store<W>(to, load<W>(to) + tile[m][n]);
    }
}

// sum[i][:] += sum over pixels of a[p][i] b[p][:], i < rows: the gradient of a weight.
template <int W>
MOCE_NOINLINE void add_outer(const float* a, int64_t a_pixel, int64_t rows, const float* b,
                             int64_t b_pixel, int64_t channels, int count, float* sum) {
  for_vector_tiles(channels / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
    for_tiles<decltype(N)::value>(rows, [&](int64_t i, auto M) MOCE_INLINE_LAMBDA {
      outer_tile<W, decltype(M)::value, decltype(N)::value>(
          a + i, a_pixel, b + n * W, b_pixel, count, sum + i * channels + n * W, channels);
    });
  });
}

// sum[:] += sum over pixels of x[p][:], whole vectors of channels: the gradient of a bias.
template <int W>
MOCE_NOINLINE void add_pixels(const float* x, int64_t pixel, int64_t channels, int count,
                              float* sum) {
  for (int64_t c = 0; c < channels; c += W) {
    Vec<W> part[4] = {};
    int p = 0;
    for (; p + 4 <= count; p += 4)
      for (int i = 0; i < 4; i++) part[i] += load<W>(x + (p + i) * pixel + c);
    for (; p < count; p++) part[0] += load<W>(x + p * pixel + c);
    store<W>(sum + c, load<W>(sum + c) + ((part[0] + part[1]) + (part[2] + part[3])));
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
