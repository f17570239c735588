// The gradients of h = DW(W n(x) + b), row by row of a strip of columns, from those of h, which the
// operator makes. Beside the ring of the projection's rows (see projected_rows.h) there is one of the
// gradients of h; both stay in a second-level cache, and neither is ever in memory whole.
//
// For row y of x rows y - K/2 ... y + K/2 of h's gradient are needed, and for these K / 2 more rows
// of the projection at either side: as many columns, and at the ends of a thread's rows as many rows,
// are made twice.
#pragma once

#include "projected_rows.h"
#include "projection_gradient.h"

namespace moce {
inline namespace MOCE_ISA {

// The weight's own rows as panels, zeros where parts are filled up to whole vectors: the gradient of
// the projection (channels) times these is that of its input. Of the vectors begin <= i < end alone.
template <int W, class T>
MOCE_NOINLINE void pack_projection_back(const Projection& p, float* to, int64_t begin,
                                        int64_t end) {
  const int64_t channels = projected_channels<W>(p), whole_part = whole<W>(p.part);
  for (int64_t n = begin * W; n < end * W; n += W) {
    const int64_t in_part = n % whole_part, from = n / whole_part * p.part + in_part;
    const int64_t exist = p.part - in_part < W ? p.part - in_part : W;
    pack_rows<W, T>(p.weight + from * p.inner, p.inner, n, exist, channels, p.inner, to);
    pack_rows<W, T>(nullptr, 0, n + exist, W - exist, channels, p.inner, to);
  }
}

template <int W, class T, int K>
struct ProjectedGradient {
  using V = Vec<W>;
  using D = Depthwise<K, W>;
  static constexpr int kMargin = K / 2, kTaps = D::kPacked;
  using Rows = ProjectedRows<W, T, K, kMargin>;
  const Projection& p;
  const ProjectionGradient& g;
  const int64_t Cp, channels;
  Rows made;
  using In = Operand<T>;
  const int64_t line_row;
  float* d;
  In* line;
  float *dn, *buffer, *x_copy, *plus_copy;

  ProjectedGradient(const Projection& p, const ProjectionGradient& g, const float* packed,
                    float* scratch)
      : p(p),
        g(g),
        Cp(whole<W>(p.inner)),
        channels(projected_channels<W>(p)),
        made(p, packed, scratch),
        line_row(operand_row<W, T>(channels)),
        d(scratch + Rows::scratch(p)),
        line(reinterpret_cast<In*>(d + Rows::ring_floats(p))),
        dn(d + Rows::ring_floats(p) + Rows::row_pixels(p) * channels),
        buffer(dn + Rows::row_pixels(p) * Cp),
        x_copy(buffer + Rows::row_pixels(p) * Cp),
        plus_copy(x_copy + Rows::row_pixels(p) * Cp) {
    clear_operands<W, T>(channels, Rows::row_pixels(p), line);
  }

  static int64_t rows(const Projection& p) {
    return p.B * p.H * strips<W, K, kMargin>(p).count;
  }
  static int64_t scratch(const Projection& p) {
    return Rows::scratch(p) + Rows::ring_floats(p) +
           Rows::row_pixels(p) * (projected_channels<W>(p) + 4 * whole<W>(p.inner));
  }
  // The panels, then the depthwise kernel, flipped.
  static int64_t packed_size(const Projection& p) {
    return projected_channels<W>(p) * whole<W>(p.inner) + projected_channels<W>(p) / W * kTaps;
  }
  static void pack(const Projection& p, const float* depthwise, float* to, int64_t begin,
                   int64_t end) {
    pack_projection_back<W, T>(p, to, begin, end);
    pack_depthwise<W, K, true>(p, depthwise, nullptr,
                               to + projected_channels<W>(p) * whole<W>(p.inner), begin, end);
  }

  // Sums: of the weight transposed (inner, channels), of the bias (channels), of the depthwise
  // kernel and its bias (channels / W, kTaps).
  static int64_t sums_size(const Projection& p) {
    return (p.inner + 1) * projected_channels<W>(p) + projected_channels<W>(p) / W * kTaps;
  }

  // Pixel x0 - kMargin of row y of h's gradient, a vector of all pixels after the other. `make` writes
  // those of the image from made.left() to made.right(); the others are zero and must stay so.
  float* gradient_at(int64_t y) const { return d + y % K * made.row; }

  // Rows begin <= i < end of all strips of all images: dx, and their groups' sums. make(y, sums)
  // leaves the gradient of row y of h at gradient_at(y); the projection's rows around it are filled.
  // It is called for rows that are not among these, too, with null for sums. `plus` is added to dx.
  template <class Make>
  MOCE_INLINE void run(int64_t begin, int64_t end, const Strided* plus, Make&& make) {
    const int64_t count = strips<W, K, kMargin>(p).count;
    for (int64_t i = begin; i < end;) {
      const int64_t top = i % p.H, bottom = p.H - top < end - i ? p.H : top + end - i;
      const int64_t first = i - top;  // row 0 of the strip
      made.enter_strip(i / p.H / count, i / p.H % count);
      for (int64_t j = 0; j < K * made.row; j++) d[j] = 0.f;
      for (int64_t y = top - 2 * kMargin; y < top; y++) made.fill(y);
      for (int64_t y = top - kMargin; y < bottom + kMargin; y++) {
        made.fill(y + kMargin);
        float* sums = y >= top && y < bottom ? g.sums_of(first + y) : nullptr;
        if (y >= 0 && y < p.H) make(y, sums);
        if (sums) add_depthwise(y, sums + (p.inner + 1) * channels);
        if (y - kMargin >= top) finish_row(y - kMargin, g.sums_of(first + y - kMargin), plus);
      }
      i += bottom - top;
    }
  }

  MOCE_NOINLINE void add_depthwise(int64_t y, float* sums) const {
    for (int64_t v = 0; v < channels / W; v++) {
      const auto w = made.window(made.ring + v * made.vector + kMargin * W, y);
      D::add_weight_gradient(w.rows, w.first, w.last,
                             gradient_at(y) + v * made.vector + kMargin * W, made.x1 - made.x0,
                             sums + v * kTaps);
    }
  }

  MOCE_NOINLINE void finish_row(int64_t y, float* sums, const Strided* plus) const {
    const int n = int(made.x1 - made.x0);
    const float* flipped = g.packed + channels * Cp;
    for (int64_t v = 0; v < channels / W; v++)
      Rows::convolve(made.window(d + v * made.vector, y), n, flipped + v * kTaps,
                     [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
                       store<W>(line + at * line_row + v * W, sum);
                     });
    const int64_t from = made.x0 - made.first_column();
    const auto in = made.inputs(y, made.x0, n, reinterpret_cast<In*>(x_copy));
    add_outer<W, T>(in.data, in.pixel, p.inner, line, line_row, channels, n, sums);
    add_pixels<W>(line, line_row, channels, n, sums + p.inner * channels);
    Pixels more{nullptr, 0};
    if (plus) more = read_pixels<W, T>(*plus, p.inner, made.b, y, made.x0, n, plus_copy);
    int64_t pixel;
    float* to = place_for_pixels<W, T>(g.dx, p.inner, made.b, y, made.x0, buffer, pixel);
    if (p.norm) {
      multiply_panels<W, T>(line, line_row, channels, g.packed, p.inner, nullptr, nullptr, 0, dn,
                            Cp, n);
      normalise_gradient<W>(dn, in.data, in.pixel,
                            made.rstd + y % K * Rows::row_pixels(p) + from, p.inner, n, to, pixel,
                            more.data, more.pixel);
    } else {
      multiply_panels<W, T>(line, line_row, channels, g.packed, p.inner, nullptr, more.data,
                            more.pixel, to, pixel, n);
    }
    write_pixels<W, T>(to, g.dx, p.inner, made.b, y, made.x0, n);
  }
};

// The sum over the groups of the vector at `at`, in order.
template <int W>
MOCE_INLINE Vec<W> sum_of_groups(const ProjectionGradient& g, int64_t at) {
  Vec<W> sum = load<W>(g.sums + at);
  for (int64_t i = 1; i < g.groups; i++) sum += load<W>(g.sums + i * g.size + at);
  return sum;
}

// Adds up the groups' sums and writes the gradients of weights; of the vectors of channels
// begin <= i < end alone.
template <int W, int K>
MOCE_NOINLINE void reduce_projection(const Projection& p, const ProjectionGradient& g,
                                     int64_t begin, int64_t end) {
  const int64_t channels = projected_channels<W>(p), whole_part = whole<W>(p.part);
  constexpr int kArea = K * K;
  for (int64_t v = begin; v < end; v++) {
    const int64_t in_part = v * W % whole_part, from = v * W / whole_part * p.part + in_part;
    const int lanes = p.part - in_part < W ? int(p.part - in_part) : W;
    const auto put = [&](int64_t at, float* to, int64_t channel) MOCE_INLINE_LAMBDA {
      const Vec<W> sum = sum_of_groups<W>(g, at);
      for (int i = 0; i < lanes; i++) to[(from + i) * channel] = sum[i];
    };
    for (int64_t k = 0; k < p.inner; k++) put(k * channels + v * W, g.weight + k, p.inner);
    put(p.inner * channels + v * W, g.bias, 1);
    const int64_t depthwise = (p.inner + 1) * channels + v * Depthwise<K, W>::kPacked;
    for (int k = 0; k < kArea; k++) put(depthwise + k * W, g.depthwise + k, kArea);
    put(depthwise + kArea * W, g.depthwise_bias, 1);
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
