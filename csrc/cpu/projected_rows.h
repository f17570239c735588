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
template <int W, class T>
MOCE_NOINLINE void pack_projection(const Projection& p, float* to, int64_t begin, int64_t end) {
  const int64_t channels = projected_channels<W>(p), whole_part = whole<W>(p.part);
  constexpr int64_t panel = kTileVectors * W;
  for (int64_t n = begin * W; n < end * W; n += W) {
    const int64_t in_part = n % whole_part, from = n / whole_part * p.part + in_part;
    const int exist = p.part - in_part < W ? int(p.part - in_part) : W;
    const int64_t n0 = n / panel * panel;
    const int64_t width = channels - n0 < panel ? channels - n0 : panel;
    pack_columns<W, T>(p.weight + from * p.inner, p.inner, exist, p.inner, to + n0 * p.inner,
                       width, n - n0);
    for (int i = 0; i < W; i++)
      to[channels * p.inner + n + i] = i < exist && p.bias ? p.bias[from + i] : 0.f;
  }
}

// A depthwise kernel's weights and then its bias, for channels in such parts: for each vector of
// these what Depthwise<K, W>::strip takes. Of the vectors begin <= i < end alone. Flipped, the
// weights make of the gradient of the convolution's output that of its input.
template <int W, int K, bool Flipped = false>
MOCE_NOINLINE void pack_depthwise(const Projection& p, const float* weight, const float* bias,
                                  float* to, int64_t begin, int64_t end) {
  const int64_t whole_part = whole<W>(p.part);
  for (int64_t n = begin * W; n < end * W; n++) {
    const int64_t in_part = n % whole_part, from = n / whole_part * p.part + in_part;
    const bool exists = in_part < p.part;
    float* lane = to + n / W * Depthwise<K, W>::kPacked + n % W;
    const float* tap = weight + from * K * K;
    for (int k = 0; k < K * K; k++)
      lane[k * W] = exists ? tap[Flipped ? K * K - 1 - k : k] : 0.f;
    lane[K * K * W] = exists && bias ? bias[from] : 0.f;
  }
}

// The strips of an image: as wide as lets K rows stay in cache, and with a Halo as many rows of
// gradients; all about equally wide.
struct Strips {
  int64_t count, width;
};
template <int W, int K, int Halo = 0>
Strips strips(const Projection& p) {
  constexpr int64_t kNarrowest = 32, kWidest = 96;  // pixels
  constexpr int64_t kCache = (Halo == 0 ? 96 : 64) * 1024;  // floats
  int64_t most = kCache / (K * projected_channels<W>(p)) - (K - 1);
  most = most < kNarrowest ? kNarrowest : most > kWidest ? kWidest : most;
  const int64_t count = (p.W + most - 1) / most;
  return {count, (p.W + count - 1) / count};
}

// The convolution's results are wanted `Halo` columns beyond the strip at either side, too; then K
// rows of what is normalised are kept as well.
template <int W, class T, int K, int Halo = 0>
struct ProjectedRows {
  static constexpr int kMargin = K / 2, kAround = kMargin + Halo;
  static constexpr int kNormed = Halo == 0 ? 1 : K;
  using In = Operand<T>;
  const Projection& p;
  const float* packed;
  const int64_t channels;     // of the ring, a vector of all pixels after the other
  const int64_t vector, row;  // floats from one to the next
  const int64_t in_row;       // of a pixel of what is multiplied
  float *ring, *x_copy;
  In* normed;
  float* rstd;
  int64_t b, x0, x1;  // the strip, without a halo

  static int64_t row_pixels(const Projection& p) {
    constexpr int tail = Depthwise<K, W>::kTail;
    return (strips<W, K, Halo>(p).width + 2 * Halo + tail - 1) / tail * tail + K - 1;
  }
  static int64_t ring_floats(const Projection& p) {
    return K * row_pixels(p) * projected_channels<W>(p);
  }
  static int64_t scratch(const Projection& p) {
    const int64_t inner = (1 + kNormed) * whole<W>(p.inner) + kNormed;
    return (ring_floats(p) + row_pixels(p) * inner + 15) / 16 * 16;
  }

  ProjectedRows(const Projection& p, const float* packed, float* scratch)
      : p(p),
        packed(packed),
        channels(projected_channels<W>(p)),
        vector(row_pixels(p) * W),
        row(row_pixels(p) * channels),
        in_row(operand_row<W, T>(p.inner)),
        ring(scratch),
        x_copy(ring + ring_floats(p)),
        normed(reinterpret_cast<In*>(x_copy + row_pixels(p) * whole<W>(p.inner))),
        rstd(x_copy + (1 + kNormed) * row_pixels(p) * whole<W>(p.inner)) {
    clear_operands<W, T>(p.inner, kNormed * row_pixels(p), normed);
  }

  // Goes to a strip of an image; the next rows to be filled are new.
  void enter_strip(int64_t image, int64_t strip) {
    b = image;
    const int64_t width = strips<W, K, Halo>(p).width;
    x0 = strip * width;
    x1 = x0 + width < p.W ? x0 + width : p.W;
    // Columns outside the picture are zero, which no fill() overwrites.
    for (int64_t i = 0; i < K * row; i++) ring[i] = 0.f;
  }

  // Of the pixels that a row is filled with.
  int64_t first_column() const { return x0 - kAround < 0 ? 0 : x0 - kAround; }
  In* normed_at(int64_t y) const { return normed + y % kNormed * row_pixels(p) * in_row; }
  // Pixels of row y that the 1x1 convolution is of, which has been filled; x0 <= x.
  PixelsOf<In> inputs(int64_t y, int64_t x, int count, In* buffer) const {
    if (!p.norm) return read_operands<W, T>(p.x, p.inner, b, y, x, count, buffer);
    return {normed_at(y) + (x - first_column()) * in_row, in_row};
  }

  void fill(int64_t y) {
    if (y < 0 || y >= p.H) return;
    const int64_t left = first_column(), right = x1 + kAround > p.W ? p.W : x1 + kAround;
    const int n = int(right - left);
    if (y + 1 < p.H) prefetch_pixels<T>(p.x, p.inner, b, y + 1, left, n);
    if (p.norm)
      with_pixels<W, T>(p.x, p.inner, b, y, left, n, x_copy, [&](const auto& x) {
        normalise<W>(x.data, x.pixel, p.inner, p.eps, n, normed_at(y), in_row,
                     rstd + y % kNormed * row_pixels(p));
      });
    const PixelsOf<In> in = inputs(y, left, n, reinterpret_cast<In*>(x_copy));
    float* to = ring + y % K * row + (left - (x0 - kAround)) * W;
    multiply_panels<W, T>(in.data, in.pixel, p.inner, packed, channels,
                          packed + channels * p.inner, nullptr, 0, to, W, n, vector);
  }

  // Of a row of the ring as many as are there: rows first <= i < last of those around row y.
  struct Window {
    const float* rows[K];
    int first, last;
  };
  Window window(const float* of, int64_t y) const {
    Window w;
    w.first = y < kMargin ? int(kMargin - y) : 0;
    w.last = y + kMargin < p.H ? K : int(p.H - y) + kMargin;
    for (int i = w.first; i < w.last; i++) w.rows[i] = of + (y - kMargin + i) % K * row;
    return w;
  }

  // The columns of the image of which the convolution is wanted, and where the first is in a row of
  // such that begins at x0 - Halo.
  int64_t left() const { return x0 < Halo ? 0 : x0 - Halo; }
  int64_t right() const { return x1 + Halo < p.W ? x1 + Halo : p.W; }
  int64_t offset() const { return left() - (x0 - Halo); }

  // The depthwise convolution of row y, of which the neighbours have been filled, for a vector of
  // channels: put(at, sum) for every pixel x0 - Halo + at, in whole groups of Depthwise::kTail.
  template <class Put>
  MOCE_INLINE void convolve(int64_t y, int64_t channel_vector, const float* weight,
                            Put&& put) const {
    const int64_t from = offset();
    convolve(window(ring + channel_vector * vector + from * W, y), right() - left(), weight,
             [&](int64_t at, Vec<W> sum) MOCE_INLINE_LAMBDA { put(from + at, sum); });
  }
  template <class Put>
  static MOCE_INLINE void convolve(const Window& w, int64_t count, const float* weight,
                                   Put&& put) {
    using D = Depthwise<K, W>;
    int64_t at = 0;
    for (; at + D::kStrip <= count; at += D::kStrip)
      D::template strip<D::kStrip>(w.rows, w.first, w.last, at, weight,
                                   [&](auto i, Vec<W> sum) MOCE_INLINE_LAMBDA {
                                     put(at + decltype(i)::value, sum);
                                   });
    for (; at < count; at += D::kTail)
      D::template strip<D::kTail>(w.rows, w.first, w.last, at, weight,
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
