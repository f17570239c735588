// The backward pass of one expert on one image: the strips with their gradients up to the depthwise
// convolutions, then the rows from there to x.
#pragma once

#include "expert_forward.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W>
struct ExpertBackward : ExpertForward<W> {
  using Base = ExpertForward<W>;
  using Base::Base;
  using typename Base::Packed, typename Base::Place, typename Base::Sums;
  using typename Base::StripBuffers, typename Base::V;
  using Base::e, Base::r, Base::rp, Base::Cp, Base::plane_row, Base::plane_width;
  using Base::attend, Base::columns_from, Base::in_plane, Base::in_strip, Base::modulation;
  using Base::packed, Base::part_size, Base::read, Base::strip_at, Base::strip_buffers;
  using Base::strips, Base::sums, Base::write;

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

  void backward_strips(int64_t begin, int64_t end, float* scratch) const {
    const Packed w = packed(e.packed);
    Pieces pieces{scratch};
    const StripBuffers b = strip_buffers(pieces);
    for (int64_t i = begin; i < end; i++) {
      zero_margins(i);
      const Sums sum = sums(e.parts + i * part_size());
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
                      const Sums& sum) const {
    FftAttention a = attend(t, w, b);
    for (int row = 0; row < t.h; row++) {
      // With g the gradient of out: d(P2 o) = gate g, and for the gate g (P2 o + x).
      const Pixels shared = modulation(t, row, w, b);
      const float* attended = b.attended + row * kColumns * rp;
      float* d_attended = b.d_attended + row * kColumns * rp;
      float* g_copy = b.y;
      const Pixels g = read(e.grad, t.y + row, t.x, t.w, g_copy);
      this->template multiply<W>(g.data, g.pixel, e.C, w.out_t, rp, nullptr, b.t, rp, t.w);
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
      this->template outer<kWide>(b.o, rp, r, g.data, g.pixel, Cp, t.w, sum.out);
      this->template outer<kWide>(b.ds, rp, r, shared.data, shared.pixel, Cp, t.w, sum.mod);
      this->template outer<W>(b.t, rp, r, attended, rp, rp, t.w, sum.attn);
      add_pixels<W>(b.t, rp, rp, t.w, sum.attn_bias);
      this->template multiply<W>(b.t, rp, r, w.attn_t, rp, nullptr, d_attended, rp, t.w);
      this->template multiply<kWide>(b.ds, rp, r, w.mod_t, Cp, nullptr, b.y, Cp, t.w);
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
      const Sums sum = sums(e.parts + i * part_size());
      for (int64_t y = e.H * i / kParts; y < e.H * (i + 1) / kParts; y++)
        for (int64_t x = 0; x < e.W; x += kColumns) backward_row(y, x, w, b, sum);
    }
  }

  void backward_row(int64_t y, int64_t x, const Packed& w, const RowBuffers& b,
                    const Sums& sum) const {
    const int n = columns_from(x, e.W);
    const int64_t stride = plane_row;
    const Pixels in = read(e.x, y, x, n, b.x), g = read(e.grad, y, x, n, b.g);
    this->template multiply<W>(in.data, in.pixel, e.C, w.in, rp, nullptr, b.h, rp, n);
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
      this->template outer<W>(b.d, rp, r, b.h, rp, rp, n, sum.qkv[i]);
      this->template multiply<W, true>(b.d, rp, r, w.qkv_t[i], rp, nullptr, b.dh, rp, n);
    }
    this->template outer<kWide>(b.dh, rp, r, in.data, in.pixel, Cp, n, sum.in);
    Vec<kWide> gate{};
    for (int p = 0; p < n; p++)
      for (int64_t c = 0; c < Cp; c += kWide) {
        const Vec<kWide> grad = load<kWide>(g.data + p * g.pixel + c);
        gate += grad * load<kWide>(in.data + p * in.pixel + c);
        store<kWide>(b.dx + p * Cp + c, grad * e.gate);
      }
    float total = 0;
    for (int lane = 0; lane < kWide; lane++) total += gate[lane];
    *sum.gate += total;
    this->template multiply<kWide, true>(b.dh, rp, r, w.in_t, Cp, nullptr, b.dx, Cp, n);
    write(b.dx, e.dx, y, x, n, b.x);
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
