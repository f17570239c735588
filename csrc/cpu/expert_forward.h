// The forward pass of one expert on one image: a band of planes, then its strips of windows.
#pragma once

#include "expert_packing.h"
#include "fft_attention_kernel.h"
#include "matmul.h"
#include "vector_math.h"

namespace moce {
inline namespace MOCE_ISA {

extern const FftAttentionKernel fft_attention_kernel;  // of this instruction set

template <int W>
struct ExpertForward : ExpertPacking<W> {
  using Base = ExpertPacking<W>;
  using Base::Base;
  using typename Base::Packed, typename Base::Place, typename Base::V;
  using Base::e, Base::r, Base::rp, Base::Cp, Base::plane, Base::plane_row, Base::plane_width;
  using Base::columns_from, Base::in_plane, Base::packed, Base::read, Base::strip_at, Base::write;

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
        this->template multiply<W>(in.data, in.pixel, e.C, w.in, rp, nullptr, h, rp, n);
        for (int i = 0; i < 3; i++)
          this->template multiply<W>(h, rp, r, w.qkv[i], rp, nullptr,
                                     in_plane(e.planes, i, y, x), rp, n);
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
    this->template multiply<W>(b.attended + row * kColumns * rp, rp, r, w.attn, rp, w.attn_bias,
                               b.o, rp, t.w);
    const Pixels shared = read(e.shared, t.y + row, t.x, t.w, b.copy);
    this->template multiply<W>(shared.data, shared.pixel, e.C, w.mod, rp, nullptr, b.s, rp, t.w);
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
        this->template multiply<kWide>(b.o, rp, r, w.out, Cp, nullptr, b.y, Cp, t.w);
        const Pixels x = read(e.x, t.y + row, t.x, t.w, b.copy);
        for (int p = 0; p < t.w; p++)
          for (int64_t c = 0; c < Cp; c += kWide) {
            float* y = b.y + p * Cp + c;
            store<kWide>(y, (load<kWide>(y) + load<kWide>(x.data + p * x.pixel + c)) * e.gate);
          }
        write(b.y, e.out, t.y + row, t.x, t.w, b.copy);
      }
    }
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
