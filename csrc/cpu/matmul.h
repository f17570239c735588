// Matrix products on float buffers whose channels are adjacent.
//
// A buffer of pixels: channel c of pixel p lies at data + p * pixel + c. Output channels come in
// whole vectors of W; where there are fewer, weights are zero. All products keep a tile of pixels x
// vectors in registers and run over the inner dimension.
#pragma once

#include "bfloat_pairs.h"
#include "tiling.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W, int M, int N>
MOCE_INLINE void multiply_tile(const float* in, int64_t in_pixel, int64_t inner,
                               const float* weight, int64_t weight_row, const Result& to) {
  Vec<W> sum[M][N];
  to.begin<W>(sum);
  for (int64_t k = 0; k < inner; k++, weight += weight_row) {
    Vec<W> row[N];
    for (int n = 0; n < N; n++) row[n] = load<W>(weight + n * W);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m][n] += in[m * in_pixel + k] * row[n];
  }
  to.finish<W>(sum);
}

template <int W, int N>
void multiply_columns(const float* in, int64_t in_pixel, int64_t inner, const float* weight,
                      int64_t weight_row, const Result& to, int count) {
  for_tiles<N, kSums>(count, [&](int64_t p, auto M) MOCE_INLINE_LAMBDA {
    multiply_tile<W, decltype(M)::value, N>(in + p * in_pixel, in_pixel, inner, weight, weight_row,
                                            to.at<W>(p, 0));
  });
}

// out[p][:] = in[p][:] weight (+ bias). weight: (inner, channels).
template <int W>
MOCE_NOINLINE void multiply_pixels(const float* in, int64_t in_pixel, int64_t inner,
                                   const float* weight, int64_t channels, const float* bias,
                                   float* out, int64_t out_pixel, int count) {
  const Result to{bias, nullptr, 0, 0, out, out_pixel, W};
  for_vector_tiles(channels / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
    multiply_columns<W, decltype(N)::value>(in, in_pixel, inner, weight + n * W, channels,
                                            to.at<W>(0, n), count);
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

// A matrix (inner, whole(channels)) is packed in panels of kTileVectors vectors, one after the other,
// each read from front to end; floats, or pairs where tensors of type T are multiplied so.

// f(n0, width, panel) for the panels of channels n0 <= n < n0 + width.
template <int W, class F>
MOCE_INLINE void for_panels(float* panels, int64_t inner, int64_t channels, F&& f) {
  constexpr int64_t most = kTileVectors * W;
  for (int64_t n0 = 0; n0 < whole<W>(channels); n0 += most) {
    const int64_t left = whole<W>(channels) - n0;
    f(n0, left < most ? left : most, panels + n0 * inner);
  }
}

// Columns n <= i < n + W of a panel of this width: column i is at from + (i - n) * from_row, or zero
// from `exist` of them on.
template <int W, class T>
MOCE_INLINE void pack_columns(const float* from, int64_t from_row, int exist, int64_t inner,
                              float* panel, int64_t width, int64_t n) {
  if constexpr (kPaired<T>) transpose_pairs<W>(from, from_row, exist, inner, panel + n, width);
  else transpose_rows<W>(from, from_row, exist, inner, panel + n, width);
}

// Rows first <= k < first + count of panels (inner, whole(channels)), each `row` floats after the
// other, or zeros if `from` is null; zeros beyond the channels, and after the last row.
template <int W, class T>
MOCE_NOINLINE void pack_rows(const float* from, int64_t row, int64_t first, int64_t count,
                             int64_t inner, int64_t channels, float* panels) {
  for_panels<W>(panels, inner, channels, [&](int64_t n0, int64_t width, float* panel) {
    const int64_t exist = !from ? 0 : channels - n0 < width ? channels - n0 : width;
    if constexpr (kPaired<T>) {
      pair_rows<W>(from + n0, row, exist, first, count, width, panel);
      if (first + count == inner) fill_pairs(inner, width, panel);
    } else {
      for (int64_t k = 0; k < count; k++)
        for (int64_t n = 0; n < width; n++)
          panel[(first + k) * width + n] = n < exist ? from[k * row + n0 + n] : 0.f;
    }
  });
}

// Panels of from[k * row + n * column], of which either row or column is 1.
template <int W, class T>
MOCE_NOINLINE void pack_panels(const float* from, int64_t inner, int64_t channels, int64_t row,
                               int64_t column, float* to) {
  if (column == 1) return pack_rows<W, T>(from, row, 0, inner, inner, channels, to);
  for_panels<W>(to, inner, channels, [&](int64_t n0, int64_t width, float* panel) {
    for (int64_t n = 0; n < width; n += W) {
      const int64_t left = channels - n0 - n;
      pack_columns<W, T>(from + (n0 + n) * column, column, left < W ? int(left) : W, inner, panel,
                         width, n);
    }
  });
}

// out[p][:] = in[p][:] panels (+ bias) (+ start[p][:]). bias has whole vectors; start may be out.
// The vectors of a pixel's outputs are out_vector floats apart. `in` is of floats or operands.
template <int W, class T, class In>
MOCE_NOINLINE void multiply_panels(const In* in, int64_t in_pixel, int64_t inner,
                                   const float* panels, int64_t channels, const float* bias,
                                   const float* start, int64_t start_pixel, float* out,
                                   int64_t out_pixel, int count, int64_t out_vector = W) {
  const Result to{bias, start, start_pixel, W, out, out_pixel, out_vector};
  if constexpr (kPaired<T>) {
    multiply_pair_panels<W>(in, in_pixel, inner, panels, channels, to, count);
  } else {
    for_vector_tiles(whole<W>(channels) / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
      constexpr int width = decltype(N)::value;
      multiply_columns<W, width>(in, in_pixel, inner, panels + n * W * inner, width * W,
                                 to.at<W>(0, n), count);
    });
  }
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
template <int W, class T, class A, class B>
MOCE_NOINLINE void add_outer(const A* a, int64_t a_pixel, int64_t rows, const B* b,
                             int64_t b_pixel, int64_t channels, int count, float* sum) {
  if constexpr (kPaired<T>) {
    add_paired_outer<W>(a, a_pixel, rows, b, b_pixel, channels, count, sum);
  } else {
    for_vector_tiles(channels / W, [&](int64_t n, auto N) MOCE_INLINE_LAMBDA {
      for_tiles<decltype(N)::value, kSums>(rows, [&](int64_t i, auto M) MOCE_INLINE_LAMBDA {
        outer_tile<W, decltype(M)::value, decltype(N)::value>(
            a + i, a_pixel, b + n * W, b_pixel, count, sum + i * channels + n * W, channels);
      });
    });
  }
}

// sum[:] += sum over pixels of x[p][:], whole vectors of channels: the gradient of a bias.
template <int W, class X>
MOCE_NOINLINE void add_pixels(const X* x, int64_t pixel, int64_t channels, int count,
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
