// One complexity expert on one image for CPUs:
//
//   h = P0 x;  q = dw3x3(Wq h);  k, v = dw7x7(Wkv h);  a = LayerNorm(q (*) k) v;
//   o = (Wo a + b) SiLU(P1 shared);  out (+)= gate (P2 o + x)
//
// in two passes over a band of rows. The first, row by row, leaves Wq h and Wkv h in planes with a
// margin of zeros (3 r floats for each pixel; a band of them stays in a cache). The second, strip by
// strip of windows, does all the rest. About 3 r C + 4 r^2 + 107 r multiply-adds for each pixel.
// Backward, the whole image in one band: the planes again; the strips with their gradients up to the
// depthwise convolutions; the rows from there to x.
//
// Buffers hold channels padded to whole vectors of W: r to `rp`, C to `Cp`. Compiled once for each
// instruction set; see simd.h for what that forbids.

#include "grouped_experts_kernel.h"

#include "fft_attention_kernel.h"
#include "linear.h"
#include "pixels.h"

namespace moce {
inline namespace MOCE_ISA {

extern const FftAttentionKernel fft_attention_kernel;  // of this instruction set

constexpr int kMargin = kPlaneMargins / 2;  // half of a 7 x 7 neighbourhood

// Hands out pieces of one allocation, each on a cache line.
struct Pieces {
  float* base;
  int64_t used = 0;
  float* take(int64_t n) {
    float* p = base + used;
    used += (n + 15) / 16 * 16;
    return p;
  }
};

template <int W>
struct Expert {
  using V = Vec<W>;
  const ExpertOnImage& e;
  const int64_t r, rp, Cp;
  // Pixels and floats of a plane's row; floats of a plane.
  const int64_t plane_width, plane_row, plane;

  explicit Expert(const ExpertOnImage& e)
      : e(e),
        r(e.rank),
        rp((e.rank + W - 1) / W * W),
        Cp((e.C + W - 1) / W * W),
        // depthwise_row reads whole groups of pixels
        plane_width((e.W + kDepthwisePixels - 1) / kDepthwisePixels * kDepthwisePixels +
                    2 * kMargin),
        plane_row(plane_width * rp),
        plane((e.rows + 2 * kMargin) * plane_row) {}

  // --- weights ---------------------------------------------------------------------------------

  struct Packed {
    float *in, *mod, *out;                                // (C, rp), (C, rp), (r, Cp)
    float *qkv[3], *dw[3], *dw_bias[3];                   // (r, rp), (9 or 49, rp), (rp)
    float *attn, *attn_bias;                              // (r, rp), (rp)
    float *in_t, *mod_t, *out_t;                          // backward: (r, Cp), (r, Cp), (C, rp)
    float *qkv_t[3], *dw_flipped[3], *attn_t;             // (r, rp), (9 or 49, rp), (r, rp)
    int64_t size;
  };
  static int taps(int i) { return i == 0 ? 9 : 49; }

  Packed packed(float* base) const {
    Pieces p{base};
    Packed w;
    w.in = p.take(e.C * rp);
    w.mod = p.take(e.C * rp);
    w.out = p.take(r * Cp);
    w.attn = p.take(r * rp);
    w.attn_bias = p.take(rp);
    w.in_t = p.take(r * Cp);
    w.mod_t = p.take(r * Cp);
    w.out_t = p.take(e.C * rp);
    w.attn_t = p.take(r * rp);
    for (int i = 0; i < 3; i++) {
      w.qkv[i] = p.take(r * rp);
      w.qkv_t[i] = p.take(r * rp);
      w.dw[i] = p.take(taps(i) * rp);
      w.dw_flipped[i] = p.take(taps(i) * rp);
      w.dw_bias[i] = p.take(rp);
    }
    w.size = p.used;
    return w;
  }

  // to (rows, padded) = from (rows, columns) with these strides, zeros after its columns
  static void copy_padded(const float* from, int64_t rows, int64_t columns, int64_t row,
                          int64_t column, float* to, int64_t padded) {
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < padded; j++)
        to[i * padded + j] = j < columns ? from[i * row + j * column] : 0.f;
  }

  void pack() const {
    const ExpertParameters& from = e.weights;
    const Packed to = packed(e.packed);
    copy_padded(from.in_proj, e.C, r, 1, e.C, to.in, rp);
    copy_padded(from.mod_proj, e.C, r, 1, e.C, to.mod, rp);
    copy_padded(from.out_proj, r, e.C, e.C, 1, to.out, Cp);
    copy_padded(from.in_proj, r, e.C, e.C, 1, to.in_t, Cp);
    copy_padded(from.mod_proj, r, e.C, e.C, 1, to.mod_t, Cp);
    copy_padded(from.out_proj, e.C, r, 1, e.C, to.out_t, rp);
    copy_padded(from.attn_out, r, r, 1, r, to.attn, rp);
    copy_padded(from.attn_out, r, r, r, 1, to.attn_t, rp);
    copy_padded(from.attn_out_bias, 1, r, 0, 1, to.attn_bias, rp);
    for (int i = 0; i < 3; i++) {
      const int64_t t = taps(i);
      const float* linear = i == 0 ? from.query : from.key_value + (i - 1) * r * r;
      const float* dw = i == 0 ? from.query_dw : from.key_value_dw + (i - 1) * r * t;
      const float* bias = i == 0 ? from.query_dw_bias : from.key_value_dw_bias + (i - 1) * r;
      copy_padded(linear, r, r, 1, r, to.qkv[i], rp);
      copy_padded(linear, r, r, r, 1, to.qkv_t[i], rp);
      copy_padded(dw, t, r, 1, t, to.dw[i], rp);
      copy_padded(dw + t - 1, t, r, -1, t, to.dw_flipped[i], rp);
      copy_padded(bias, 1, r, 0, 1, to.dw_bias[i], rp);
    }
  }

  // Sums of gradients, in layouts of their own.
  struct Part {
    float *in, *mod, *out;               // (r, Cp)
    float *qkv[3], *dw[3], *dw_bias[3];  // (r, rp), (9 or 49, rp), (rp)
    float *attn, *attn_bias;             // (r, rp), (rp)
    float *norm, *norm_bias;             // (rp)
    float* gate;
    int64_t size;
  };
  Part part(float* base) const {
    Pieces p{base};
    Part s;
    s.in = p.take(r * Cp);
    s.mod = p.take(r * Cp);
    s.out = p.take(r * Cp);
    for (int i = 0; i < 3; i++) {
      s.qkv[i] = p.take(r * rp);
      s.dw[i] = p.take(taps(i) * rp);
      s.dw_bias[i] = p.take(rp);
    }
    s.attn = p.take(r * rp);
    s.attn_bias = p.take(rp);
    s.norm = p.take(rp);
    s.norm_bias = p.take(rp);
    s.gate = p.take(1);
    s.size = p.used;
    return s;
  }
  int64_t part_size() const { return part(nullptr).size; }

  double gate_gradient() const {
    double sum = 0;
    for (int i = 0; i < kParts; i++) {
      float* gate = part(e.parts + i * part_size()).gate;
      sum += *gate;
      *gate = 0.f;
    }
    return sum;
  }

  void add_parts(const ExpertParameters& to) const {
    float* first = e.parts;
    const int64_t size = part_size();
    for (int i = 1; i < kParts; i++)
      for (int64_t j = 0; j < size; j++) first[j] += e.parts[i * size + j];
    const Part sum = part(first);
    const auto add = [](const float* from, int64_t padded, int64_t rows, int64_t columns, float* to,
                        int64_t row, int64_t column) {
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[i * row + j * column] += from[i * padded + j];
    };
    add(sum.in, Cp, r, e.C, to.in_proj, e.C, 1);
    add(sum.mod, Cp, r, e.C, to.mod_proj, e.C, 1);
    add(sum.out, Cp, r, e.C, to.out_proj, e.C, 1);
    add(sum.attn, rp, r, r, to.attn_out, r, 1);
    add(sum.attn_bias, rp, 1, r, to.attn_out_bias, 0, 1);
    add(sum.norm, rp, 1, r, to.norm, 0, 1);
    add(sum.norm_bias, rp, 1, r, to.norm_bias, 0, 1);
    for (int i = 0; i < 3; i++) {
      const int64_t t = taps(i);
      add(sum.qkv[i], rp, r, r, i == 0 ? to.query : to.key_value + (i - 1) * r * r, r, 1);
      add(sum.dw[i], rp, t, r, i == 0 ? to.query_dw : to.key_value_dw + (i - 1) * r * t, 1, t);
      add(sum.dw_bias[i], rp, 1, r,
          i == 0 ? to.query_dw_bias : to.key_value_dw_bias + (i - 1) * r, 0, 1);
    }
  }

  // --- activations -----------------------------------------------------------------------------

  // C channels of `count` pixels of this image: the tensor's own memory where it serves, else a copy
  // in `buffer` (count, Cp).
  Pixels read(const Strided& s, int64_t y, int64_t x, int count, float* buffer) const {
    return with_type(e.type, [&](auto t) {
      return read_pixels<W, decltype(t)>(s, e.C, 0, y, x, count, buffer);
    });
  }
  // `from` (count, Cp) to a tensor, on top of what is there where e.accumulate says so.
  void write(float* from, const Strided& s, int64_t y, int64_t x, int count, float* buffer) const {
    if (e.accumulate) {
      const Pixels before = read(s, y, x, count, buffer);
      for (int p = 0; p < count; p++)
        for (int64_t c = 0; c < Cp; c += W)
          store<W>(from + p * Cp + c,
                   load<W>(from + p * Cp + c) + load<W>(before.data + p * before.pixel + c));
    }
    with_type(e.type, [&](auto t) {
      auto* to = pixel_at<decltype(t)>(s, 0, y, x);
      for (int64_t c = 0; c < e.C; c += W)
        scatter_pixels<W>(from + c, Cp, to + c * s.c, s, e.C - c < W ? int(e.C - c) : W, count);
    });
  }

  int64_t strip_columns() const { return (e.W + kColumns - 1) / kColumns; }
  int64_t strips() const {
    const int64_t rows = e.H - e.top < e.rows ? e.H - e.top : e.rows;
    return (rows + e.window - 1) / e.window * strip_columns();
  }
  static int columns_from(int64_t x, int64_t width) {
    return width - x < kColumns ? int(width - x) : kColumns;
  }

  float* in_plane(float* planes, int i, int64_t y, int64_t x) const {
    return planes + i * plane + (y - e.top + kMargin) * plane_row + (x + kMargin) * rp;
  }

  // --- forward ---------------------------------------------------------------------------------

  int64_t band_rows() const {
    constexpr int64_t kFloats = int64_t{1} << 21, kFewest = 32;  // whole windows of any size
    const int64_t fit = kFloats / (3 * plane_row) / kFewest * kFewest;
    const int64_t rows = fit < kFewest ? kFewest : fit;
    return rows < e.H ? rows : e.H;
  }

  // The margin between two bands is moved, not made again.
  void keep_margin() const {
    for (int i = 0; i < 3; i++) {
      float* first = e.planes + i * plane;
      const float* last = first + e.rows * plane_row;
      for (int64_t j = 0; j < kPlaneMargins * plane_row; j += W)
        store<W>(first + j, load<W>(last + j));
    }
  }

  void project(int64_t begin, int64_t end, float* scratch) const {
    const Packed w = packed(e.packed);
    Pieces pieces{scratch};
    float *x_copy = pieces.take(kColumns * Cp), *h = pieces.take(kColumns * rp);
    for (int64_t row = begin; row < end; row++) {
      const int64_t y = e.top + row - kMargin;
      const bool inside = y >= 0 && y < e.H;
      for (int i = 0; i < 3; i++) {
        float* p = in_plane(e.planes, i, y, -kMargin);
        for (int64_t x = -kMargin; x < plane_width - kMargin; x++, p += rp)
          if (!inside || x < 0 || x >= e.W)
            for (int64_t c = 0; c < rp; c += W) store<W>(p + c, V{});
      }
      if (!inside) continue;
      for (int64_t x = 0; x < e.W; x += kColumns) {
        const int n = columns_from(x, e.W);
        const Pixels in = read(e.x, y, x, n, x_copy);
        multiply_pixels<W>(in.data, in.pixel, e.C, w.in, rp, nullptr, h, rp, n);
        for (int i = 0; i < 3; i++)
          multiply_pixels<W>(h, rp, r, w.qkv[i], rp, nullptr, in_plane(e.planes, i, y, x), rp, n);
      }
    }
  }

  struct StripBuffers {
    float *q, *k, *v, *attended;  // (window, kColumns, rp)
    float *o, *s, *copy, *y;      // one row: (kColumns, rp), same, (kColumns, Cp), same
    float *d_attended, *t, *ds;   // backward: (window, kColumns, rp), one row, one row
    float* d_norm;                // (2, r): gradients of the LayerNorm's weight and bias
    float* attention;             // scratch of fft_attention_kernel
  };
  StripBuffers strip_buffers(Pieces& p) const {
    const int64_t strip = e.window * kColumns * rp;
    StripBuffers b;
    b.q = p.take(strip);
    b.k = p.take(strip);
    b.v = p.take(strip);
    b.attended = p.take(strip);
    b.d_attended = p.take(strip);
    b.o = p.take(kColumns * rp);
    b.s = p.take(kColumns * rp);
    b.t = p.take(kColumns * rp);
    b.ds = p.take(kColumns * rp);
    b.copy = p.take(kColumns * Cp);
    b.y = p.take(kColumns * Cp);
    b.d_norm = p.take(2 * r);
    b.attention = p.base + p.used;
    return b;
  }
  int64_t scratch_size(bool backward) const {
    Pieces p{nullptr};
    strip_buffers(p);
    Pieces rows{nullptr};
    row_buffers(rows);
    FftAttention a{};
    a.C = r;
    a.window = e.window;
    const int64_t strip = p.used + fft_attention_kernel.scratch(a, backward);
    return strip > rows.used ? strip : rows.used;
  }

  struct Place {
    int64_t y, x;
    int h, w;
  };
  Place strip_at(int64_t i) const {
    Place t;
    t.x = i % strip_columns() * kColumns;
    t.y = e.top + i / strip_columns() * e.window;
    t.h = e.H - t.y < e.window ? int(e.H - t.y) : e.window;
    t.w = columns_from(t.x, e.W);
    return t;
  }

  // q, k, v of a strip, and the attention on them as an image of its own.
  FftAttention attend(const Place& t, const Packed& w, const StripBuffers& b) const {
    for (int row = 0; row < t.h; row++) {
      const int64_t o = row * kColumns * rp, stride = plane_row;
      depthwise_row<W, 3>(in_plane(e.planes, 0, t.y + row - 1, t.x - 1), stride, w.dw[0],
                          w.dw_bias[0], rp, b.q + o, t.w);
      depthwise_row<W, 7>(in_plane(e.planes, 1, t.y + row - 3, t.x - 3), stride, w.dw[1],
                          w.dw_bias[1], rp, b.k + o, t.w);
      depthwise_row<W, 7>(in_plane(e.planes, 2, t.y + row - 3, t.x - 3), stride, w.dw[2],
                          w.dw_bias[2], rp, b.v + o, t.w);
    }
    FftAttention a{};
    a.B = 1;
    a.C = r;
    a.H = t.h;
    a.W = t.w;
    a.window = e.window;
    a.eps = e.eps;
    a.weight = e.weights.norm;
    a.bias = e.weights.norm_bias;
    a.q = in_strip(b.q);
    a.k = in_strip(b.k);
    a.v = in_strip(b.v);
    a.out = in_strip(b.attended);
    fft_attention_kernel.forward(a, 0, 1, b.attention);
    return a;
  }
  Strided in_strip(float* data) const { return {data, 0, 1, kColumns * rp, rp}; }

  // o = Wo a + b and s = P1 shared for one row of a strip; returns the row of shared.
  Pixels modulation(const Place& t, int row, const Packed& w, const StripBuffers& b) const {
    multiply_pixels<W>(b.attended + row * kColumns * rp, rp, r, w.attn, rp, w.attn_bias, b.o, rp,
                       t.w);
    const Pixels shared = read(e.shared, t.y + row, t.x, t.w, b.copy);
    multiply_pixels<W>(shared.data, shared.pixel, e.C, w.mod, rp, nullptr, b.s, rp, t.w);
    return shared;
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    const Packed w = packed(e.packed);
    Pieces pieces{scratch};
    const StripBuffers b = strip_buffers(pieces);
    for (int64_t i = begin; i < end; i++) {
      const Place t = strip_at(i);
      attend(t, w, b);
      for (int row = 0; row < t.h; row++) {
        modulation(t, row, w, b);
        for (int64_t j = 0; j < t.w * rp; j += W) {
          const V s = load<W>(b.s + j);
          store<W>(b.o + j, load<W>(b.o + j) * (s * sigmoid<W>(s)));
        }
        multiply_pixels<W>(b.o, rp, r, w.out, Cp, nullptr, b.y, Cp, t.w);
        const Pixels x = read(e.x, t.y + row, t.x, t.w, b.copy);
        for (int p = 0; p < t.w; p++)
          for (int64_t c = 0; c < Cp; c += W) {
            float* y = b.y + p * Cp + c;
            store<W>(y, (load<W>(y) + load<W>(x.data + p * x.pixel + c)) * e.gate);
          }
        write(b.y, e.out, t.y + row, t.x, t.w, b.copy);
      }
    }
  }

  // --- backward --------------------------------------------------------------------------------

  void backward_strips(int64_t begin, int64_t end, float* scratch) const {
    const Packed w = packed(e.packed);
    Pieces pieces{scratch};
    const StripBuffers b = strip_buffers(pieces);
    for (int64_t i = begin; i < end; i++) {
      zero_margins(i);
      const Part sum = part(e.parts + i * part_size());
      for (int64_t j = strips() * i / kParts; j < strips() * (i + 1) / kParts; j++)
        backward_strip(strip_at(j), w, b, sum);
    }
  }

  // The margins of grad_planes, part i of them.
  void zero_margins(int64_t i) const {
    const int64_t rows = e.H + 2 * kMargin;
    for (int64_t row = rows * i / kParts; row < rows * (i + 1) / kParts; row++)
      for (int n = 0; n < 3; n++) {
        const int64_t y = row - kMargin;
        float* p = in_plane(e.grad_planes, n, y, -kMargin);
        for (int64_t x = -kMargin; x < plane_width - kMargin; x++, p += rp)
          if (y < 0 || y >= e.H || x < 0 || x >= e.W)
            for (int64_t c = 0; c < rp; c += W) store<W>(p + c, V{});
      }
  }

  void backward_strip(const Place& t, const Packed& w, const StripBuffers& b,
                      const Part& sum) const {
    FftAttention a = attend(t, w, b);
    for (int row = 0; row < t.h; row++) {
      // With g the gradient of out: d(P2 o) = gate g, and for the gate g (P2 o + x).
      const Pixels shared = modulation(t, row, w, b);
      const float* attended = b.attended + row * kColumns * rp;
      float* d_attended = b.d_attended + row * kColumns * rp;
      float* g_copy = b.y;
      const Pixels g = read(e.grad, t.y + row, t.x, t.w, g_copy);
      multiply_pixels<W>(g.data, g.pixel, e.C, w.out_t, rp, nullptr, b.t, rp, t.w);
      V gate{};
      for (int64_t j = 0; j < t.w * rp; j += W) {
        const V s = load<W>(b.s + j), o = load<W>(b.o + j), d = load<W>(b.t + j);
        const V sig = sigmoid<W>(s), silu = s * sig, gated = d * e.gate;
        gate += d * (o * silu);
        store<W>(b.t + j, gated * silu);                                    // d o
        store<W>(b.ds + j, gated * o * (sig * (1.f + s * (1.f - sig))));    // d s
        store<W>(b.o + j, o * silu * e.gate);
      }
      float total = 0;
      for (int lane = 0; lane < W; lane++) total += gate[lane];
      *sum.gate += total;
      add_outer<W>(b.o, rp, r, g.data, g.pixel, Cp, t.w, sum.out);
      add_outer<W>(b.ds, rp, r, shared.data, shared.pixel, Cp, t.w, sum.mod);
      add_outer<W>(b.t, rp, r, attended, rp, rp, t.w, sum.attn);
      for (int64_t c = 0; c < rp; c += W) {
        V bias{};  // of the row first: a long sum loses more
        for (int p = 0; p < t.w; p++) bias += load<W>(b.t + p * rp + c);
        store<W>(sum.attn_bias + c, load<W>(sum.attn_bias + c) + bias);
      }
      multiply_pixels<W>(b.t, rp, r, w.attn_t, rp, nullptr, d_attended, rp, t.w);
      multiply_pixels<W>(b.ds, rp, r, w.mod_t, Cp, nullptr, b.y, Cp, t.w);
      write(b.y, e.dshared, t.y + row, t.x, t.w, b.copy);
    }
    a.grad = in_strip(b.d_attended);
    const auto in_gradient = [&](int i) {
      return Strided{in_plane(e.grad_planes, i, t.y, t.x), 0, 1, plane_row, rp};
    };
    a.dq = in_gradient(0);
    a.dk = in_gradient(1);
    a.dv = in_gradient(2);
    a.dnorm = b.d_norm;
    a.groups = 1;
    fft_attention_kernel.backward(a, 0, 1, b.attention);
    for (int64_t c = 0; c < r; c++) {
      sum.norm[c] += b.d_norm[c];
      sum.norm_bias[c] += b.d_norm[r + c];
    }
  }

  struct RowBuffers {
    float *x, *g, *dx, *h, *dh, *d;  // (kColumns, Cp) three times, (kColumns, rp) three times
  };
  RowBuffers row_buffers(Pieces& p) const {
    RowBuffers b;
    b.x = p.take(kColumns * Cp);
    b.g = p.take(kColumns * Cp);
    b.dx = p.take(kColumns * Cp);
    b.h = p.take(kColumns * rp);
    b.dh = p.take(kColumns * rp);
    b.d = p.take(kColumns * rp);
    return b;
  }

  void backward_rows(int64_t begin, int64_t end, float* scratch) const {
    const Packed w = packed(e.packed);
    Pieces pieces{scratch};
    const RowBuffers b = row_buffers(pieces);
    for (int64_t i = begin; i < end; i++) {
      const Part sum = part(e.parts + i * part_size());
      for (int64_t y = e.H * i / kParts; y < e.H * (i + 1) / kParts; y++)
        for (int64_t x = 0; x < e.W; x += kColumns) backward_row(y, x, w, b, sum);
    }
  }

  void backward_row(int64_t y, int64_t x, const Packed& w, const RowBuffers& b,
                    const Part& sum) const {
    const int n = columns_from(x, e.W);
    const int64_t stride = plane_row;
    const Pixels in = read(e.x, y, x, n, b.x), g = read(e.grad, y, x, n, b.g);
    multiply_pixels<W>(in.data, in.pixel, e.C, w.in, rp, nullptr, b.h, rp, n);
    for (int64_t j = 0; j < n * rp; j += W) store<W>(b.dh + j, V{});
    for (int i = 0; i < 3; i++) {
      const int m = i == 0 ? 1 : 3;
      const float* d_out = in_plane(e.grad_planes, i, y, x);
      const float* d_corner = in_plane(e.grad_planes, i, y - m, x - m);
      const float* corner = in_plane(e.planes, i, y - m, x - m);
      if (i == 0) {
        depthwise_row<W, 3>(d_corner, stride, w.dw_flipped[i], nullptr, rp, b.d, n);
        depthwise_row_gradient<W, 3>(d_out, corner, stride, rp, n, sum.dw[i], sum.dw_bias[i]);
      } else {
        depthwise_row<W, 7>(d_corner, stride, w.dw_flipped[i], nullptr, rp, b.d, n);
        depthwise_row_gradient<W, 7>(d_out, corner, stride, rp, n, sum.dw[i], sum.dw_bias[i]);
      }
      add_outer<W>(b.d, rp, r, b.h, rp, rp, n, sum.qkv[i]);
      multiply_pixels<W, true>(b.d, rp, r, w.qkv_t[i], rp, nullptr, b.dh, rp, n);
    }
    add_outer<W>(b.dh, rp, r, in.data, in.pixel, Cp, n, sum.in);
    V gate{};
    for (int p = 0; p < n; p++)
      for (int64_t c = 0; c < Cp; c += W) {
        const V grad = load<W>(g.data + p * g.pixel + c);
        gate += grad * load<W>(in.data + p * in.pixel + c);
        store<W>(b.dx + p * Cp + c, grad * e.gate);
      }
    float total = 0;
    for (int lane = 0; lane < W; lane++) total += gate[lane];
    *sum.gate += total;
    multiply_pixels<W, true>(b.dh, rp, r, w.in_t, Cp, nullptr, b.dx, Cp, n);
    write(b.dx, e.dx, y, x, n, b.x);
  }
};

// The widest vectors whose lanes the rank fills well.
template <class F>
auto dispatch(const ExpertOnImage& e, F&& f) {
#if MOCE_LANES >= 16
  if (e.rank > 8) return f(Expert<16>(e));
#endif
#if MOCE_LANES >= 8
  if (e.rank > 4) return f(Expert<8>(e));
#endif
  return f(Expert<4>(e));
}

extern const GroupedExpertsKernel grouped_experts_kernel = {
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.band_rows(); }); },
    [](const ExpertOnImage& e) {
      return dispatch(e, [](auto x) { return x.packed(nullptr).size; });
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return 3 * x.plane; }); },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.part_size(); }); },
    [](const ExpertOnImage& e, bool backward) {
      return dispatch(e, [=](auto x) { return x.scratch_size(backward); });
    },
    [](const ExpertOnImage& e) { dispatch(e, [](auto x) { x.pack(); }); },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.project(begin, end, scratch); });
    },
    [](ExpertOnImage& e) {
      dispatch(e, [](auto x) { x.keep_margin(); });
      e.top += e.rows;
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.strips(); }); },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.forward(begin, end, scratch); });
    },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.backward_strips(begin, end, scratch); });
    },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.backward_rows(begin, end, scratch); });
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.gate_gradient(); }); },
    [](const ExpertOnImage& e, const ExpertParameters& gradients) {
      dispatch(e, [&](auto x) { x.add_parts(gradients); });
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
