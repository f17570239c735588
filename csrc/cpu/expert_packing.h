// The weights of an expert as the kernels read them, and the sums of their gradients.
#pragma once

#include "expert_geometry.h"
#include "matmul.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W>
struct ExpertPacking : ExpertGeometry<W> {
  using Base = ExpertGeometry<W>;
  using Base::Base;
  using Base::e, Base::r, Base::rp, Base::Cp;

  struct Packed {
    // Panels, except dw and biases.
    float *in, *mod, *out;                     // (C, rp), (C, rp), (r, Cp)
    float *qkv[3], *dw[3], *dw_bias[3];        // (r, rp), (9 or 49, rp), (rp)
    float *attn, *attn_bias;                   // (r, rp), (rp)
    float *in_t, *mod_t, *out_t;               // backward: (r, Cp), (r, Cp), (C, rp)
    float *qkv_t[3], *dw_flipped[3], *attn_t;  // (r, rp), (9 or 49, rp), (r, rp)
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

  // f(T()) for the type that products are made in. At low ranks pairs take longer to make than they
  // save.
  template <class F>
  void with_operands(F&& f) const {
    if constexpr (kDotProducts && W == kWide)
      if (e.type == Type::kBFloat16 && e.rank > W) return f(BFloat16{});
    f(float{});
  }
  template <int V>
  void panels(const float* from, int64_t inner, int64_t channels, int64_t row, int64_t column,
              float* to) const {
    with_operands([&](auto t) {
      pack_panels<V, decltype(t)>(from, inner, channels, row, column, to);
    });
  }
  // out[p][:] = in[p][:] panels (+ bias), or += with Add.
  template <int V, bool Add = false>
  void multiply(const float* in, int64_t in_pixel, int64_t inner, const float* weight,
                int64_t channels, const float* bias, float* out, int64_t out_pixel,
                int count) const {
    with_operands([&](auto t) {
      multiply_panels<V, decltype(t)>(in, in_pixel, inner, weight, channels, bias,
                                      Add ? out : nullptr, out_pixel, out, out_pixel, count);
    });
  }
  // sum[i][:] += sum over pixels of a[p][i] b[p][:], i < rows.
  template <int V>
  void outer(const float* a, int64_t a_pixel, int64_t rows, const float* b, int64_t b_pixel,
             int64_t channels, int count, float* sum) const {
    with_operands([&](auto t) {
      add_outer<V, decltype(t)>(a, a_pixel, rows, b, b_pixel, channels, count, sum);
    });
  }

  void pack() const {
    const ExpertWeights& from = e.weights;
    const Packed to = packed(e.packed);
    panels<W>(from.in_proj, e.C, r, 1, e.C, to.in);
    panels<W>(from.mod_proj, e.C, r, 1, e.C, to.mod);
    panels<kWide>(from.out_proj, r, e.C, e.C, 1, to.out);
    panels<kWide>(from.in_proj, r, e.C, e.C, 1, to.in_t);
    panels<kWide>(from.mod_proj, r, e.C, e.C, 1, to.mod_t);
    panels<W>(from.out_proj, e.C, r, 1, e.C, to.out_t);
    panels<W>(from.attn_out, r, r, 1, r, to.attn);
    panels<W>(from.attn_out, r, r, r, 1, to.attn_t);
    copy_padded(from.attn_out_bias, 1, r, 0, 1, to.attn_bias, rp);
    for (int i = 0; i < 3; i++) {
      const int64_t t = taps(i);
      const float* linear = i == 0 ? from.query : from.key_value + (i - 1) * r * r;
      const float* dw = i == 0 ? from.query_dw : from.key_value_dw + (i - 1) * r * t;
      const float* bias = i == 0 ? from.query_dw_bias : from.key_value_dw_bias + (i - 1) * r;
      panels<W>(linear, r, r, 1, r, to.qkv[i]);
      panels<W>(linear, r, r, r, 1, to.qkv_t[i]);
      copy_padded(dw, t, r, 1, t, to.dw[i], rp);
      copy_padded(dw + t - 1, t, r, -1, t, to.dw_flipped[i], rp);
      copy_padded(bias, 1, r, 0, 1, to.dw_bias[i], rp);
    }
  }

  // A part's sums of gradients, in layouts of their own.
  struct Sums {
    float *in, *mod, *out;               // (r, Cp)
    float *qkv[3], *dw[3], *dw_bias[3];  // (r, rp), (9 or 49, rp), (rp)
    float *attn, *attn_bias;             // (r, rp), (rp)
    float *norm, *norm_bias;             // (rp)
    float* gate;
    int64_t size;
  };
  Sums sums(float* base) const {
    Pieces p{base};
    Sums s;
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
  int64_t part_size() const { return sums(nullptr).size; }

  double gate_gradient() const {
    double sum = 0;
    for (int i = 0; i < kParts; i++) {
      float* gate = sums(e.parts + i * part_size()).gate;
      sum += *gate;
      *gate = 0.f;
    }
    return sum;
  }

  void add_parts(const ExpertWeights& to) const {
    float* first = e.parts;
    const int64_t size = part_size();
    for (int i = 1; i < kParts; i++)
      for (int64_t j = 0; j < size; j++) first[j] += e.parts[i * size + j];
    const Sums sum = sums(first);
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
};

}  // namespace MOCE_ISA
}  // namespace moce
