// Rows of a 1x1 convolution, with or without a normalisation before it, as a depthwise convolution
// reads them: a strip of columns, in a ring of as many rows as the kernel has, which stays in a
// second-level cache. What the convolution needs is made once and is never in memory whole.
#pragma once

#include "channel_norm.h"
#include "depthwise.h"
#include "matmul.h"
#include "pixels.h"

namespace moce {
inline namespace MOCE_ISA {

// h(x) = W n(x) + b, n the normalisation over channels or the identity. The outputs come in
// `parts` of `part` channels, each up to whole vectors: those of a gate are apart.
struct Projection {
  int64_t B, H, W, inner;
  int parts;
  int64_t part;
  bool norm;
  float eps;
  Strided x;
  const float *weight, *bias;  // (parts * part, inner), (parts * part,) or null
};

template <int W>
MOCE_INLINE int64_t projected_channels(const Projection& p) {
  return p.parts * whole<W>(p.part);
}
template <int W>
MOCE_INLINE int64_t packed_projection_size(const Projection& p) {
  return (p.inner + 1) * projected_channels<W>(p);
}

// Panels of the transposed weight (see pack_panels), then the bias; of the vectors of channels
// begin <= i < end alone.
template <int W>
MOCE_NOINLINE void pack_projection(const Projection& p, float* to, int64_t begin, int64_t end) {
  const int64_t channels = projected_channels<W>(p), whole_part = whole<W>(p.part);
  constexpr int64_t panel = kTileVectors * W;
  for (int64_t n = begin * W; n < end * W; n += W) {
    const int64_t in_part = n % whole_part, from = n / whole_part * p.part + in_part;
    const int exist = p.part - in_part < W ? int(p.part - in_part) : W;
    const int64_t n0 = n / panel * panel;
    const int64_t width = channels - n0 < panel ? channels - n0 : panel;
    transpose_rows<W>(p.weight + from * p.inner, p.inner, exist, p.inner,
                      to + n0 * p.inner + (n - n0), width);
    for (int i = 0; i < W; i++)
      to[channels * p.inner + n + i] = i < exist && p.bias ? p.bias[from + i] : 0.f;
  }
}

// A depthwise kernel's weights and then its bias, for channels in such parts: for each vector of
// these what Depthwise<K, W>::strip takes. Of the vectors begin <= i < end alone.
template <int W, int K>
MOCE_NOINLINE void pack_depthwise(const Projection& p, const float* weight, const float* bias,
                                  float* to, int64_t begin, int64_t end) {
  const int64_t whole_part = whole<W>(p.part);
  for (int64_t n = begin * W; n < end * W; n++) {
    const int64_t in_part = n % whole_part, from = n / whole_part * p.part + in_part;
    const bool exists = in_part < p.part;
    float* lane = to + n / W * Depthwise<K, W>::kPacked + n % W;
    for (int k = 0; k < K * K; k++) lane[k * W] = exists ? weight[from * K * K + k] : 0.f;
    lane[K * K * W] = exists && bias ? bias[from] : 0.f;
  }
}

// The strips of an image: as wide as lets K rows stay in cache, all about equally wide.
struct Strips {
  int64_t count, width;
};
template <int W, int K>
Strips strips(const Projection& p) {
  constexpr int64_t kCache = 96 * 1024, kNarrowest = 32, kWidest = 96;  // floats, pixels
  int64_t most = kCache / (K * projected_channels<W>(p)) - (K - 1);
  most = most < kNarrowest ? kNarrowest : most > kWidest ? kWidest : most;
  const int64_t count = (p.W + most - 1) / most;
  return {count, (p.W + count - 1) / count};
}

template <int W, class T, int K>
struct ProjectedRows {
  static constexpr int kMargin = K / 2;
  const Projection& p;
  const float* packed;
  const int64_t channels;     // of the ring, a vector of all pixels after the other
  const int64_t vector, row;  // floats from one to the next
  float *ring, *x_copy, *normed, *rstd;
  int64_t b, x0, x1;

  static int64_t row_pixels(const Projection& p) {
    constexpr int tail = Depthwise<K, W>::kTail;
    return (strips<W, K>(p).width + tail - 1) / tail * tail + K - 1;
  }
  static int64_t ring_floats(const Projection& p) {
    return K * row_pixels(p) * projected_channels<W>(p);
  }
  static int64_t scratch(const Projection& p) {
    return (ring_floats(p) + row_pixels(p) * (2 * whole<W>(p.inner) + 1) + 15) / 16 * 16;
  }

  ProjectedRows(const Projection& p, const float* packed, float* scratch)
      : p(p),
        packed(packed),
        channels(projected_channels<W>(p)),
        vector(row_pixels(p) * W),
        row(row_pixels(p) * channels),
        ring(scratch),
        x_copy(ring + ring_floats(p)),
        normed(x_copy + row_pixels(p) * whole<W>(p.inner)),
        rstd(normed + row_pixels(p) * whole<W>(p.inner)) {}

  // Goes to a strip of an image; the next rows to be filled are new.
  void enter_strip(int64_t image, int64_t strip) {
    b = image;
    x0 = strip * strips<W, K>(p).width;
    x1 = x0 + strips<W, K>(p).width < p.W ? x0 + strips<W, K>(p).width : p.W;
    // Columns outside the picture are zero, which no fill() overwrites.
    for (int64_t i = 0; i < K * row; i++) ring[i] = 0.f;
  }

  void fill(int64_t y) {
    if (y < 0 || y >= p.H) return;
    const int64_t left = x0 - kMargin < 0 ? 0 : x0 - kMargin;
    const int64_t right = x1 + kMargin > p.W ? p.W : x1 + kMargin;
    const int n = int(right - left);
    Pixels in = read_pixels<W, T>(p.x, p.inner, b, y, left, n, x_copy);
    if (p.norm) {
      normalise<W>(in.data, in.pixel, p.inner, p.eps, n, normed, rstd);
      in = {normed, whole<W>(p.inner)};
    }
    float* to = ring + y % K * row + (left - (x0 - kMargin)) * W;
    multiply_panels<W>(in.data, in.pixel, p.inner, packed, channels,
                       packed + channels * p.inner, nullptr, 0, to, W, n, vector);
  }

  // The depthwise convolution of row y, of which the neighbours have been filled, for a vector of
  // channels: put(at, sum) for every pixel x0 + at, in whole groups of Depthwise::kTail.
  template <class Put>
  MOCE_INLINE void convolve(int64_t y, int64_t channel_vector, const float* weight,
                            Put&& put) const {
    using D = Depthwise<K, W>;
    const int first = y < kMargin ? int(kMargin - y) : 0;
    const int last = y + kMargin < p.H ? K : int(p.H - y) + kMargin;
    const float* rows[K];
    for (int i = first; i < last; i++)
      rows[i] = ring + (y - kMargin + i) % K * row + channel_vector * vector;
    int64_t at = 0;
    for (; at + D::kStrip <= x1 - x0; at += D::kStrip)
      D::template strip<D::kStrip>(rows, first, last, at, weight,
                                   [&](auto i, Vec<W> sum) MOCE_INLINE_LAMBDA {
                                     put(at + decltype(i)::value, sum);
                                   });
    for (; at < x1 - x0; at += D::kTail)
      D::template strip<D::kTail>(rows, first, last, at, weight,
                                  [&](auto i, Vec<W> sum) MOCE_INLINE_LAMBDA {
                                    put(at + decltype(i)::value, sum);
                                  });
  }
};

// Runs row(y) for every row in begin <= i < end of all strips of all images, with what it reads in
// the ring.
template <int W, class T, int K, class Row>
MOCE_INLINE void for_rows_of_strips(ProjectedRows<W, T, K>& rows, int64_t begin, int64_t end,
                                    Row&& row) {
  const Projection& p = rows.p;
  const int64_t count = strips<W, K>(p).count;
  for (int64_t i = begin; i < end; i++) {
    const int64_t y = i % p.H;
    if (i == begin || y == 0) {
      rows.enter_strip(i / p.H / count, i / p.H % count);
      for (int dy = -(K / 2); dy < K / 2; dy++) rows.fill(y + dy);
    }
    rows.fill(y + K / 2);
    row(y);
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
