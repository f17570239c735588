// A whole GDFN for CPUs: out = x + Wo (GELU(a) b) + bo with a, b = DW3x3(Wi n(x) + bi), n the
// normalisation over channels. Row by row of a strip of columns: the hidden features of three rows
// stay in a second-level cache (see projected_rows.h), so that x is read and out is written once
// and nothing else passes through memory. 2 C 3h + 36 h + about 90 h float operations a pixel, h
// the gate's channels. Backward the same features are made again, beside their gradients (see
// projected_gradient.h): x and grad are read, dx is written. 2 C 8h + 144 h + about 150 h operations.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "gated_feedforward_kernel.h"

#include "gelu.h"
#include "projected_gradient.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W, class T>
struct FeedForward {
  using V = Vec<W>;
  using Rows = ProjectedRows<W, T, 3>;
  static constexpr int kTaps = Depthwise<3, W>::kPacked;
  const GatedFeedForward& a;
  const Projection in;
  const int64_t Cp, hp;  // channels up to whole vectors

  explicit FeedForward(const GatedFeedForward& a)
      : a(a),
        in{a.B, a.H, a.W, a.C, 2, a.hidden, a.norm, a.eps, a.x, a.in, a.in_bias},
        Cp(whole<W>(a.C)),
        hp(whole<W>(a.hidden)) {}

  int64_t rows() const { return a.B * a.H * strips<W, 3>(in).count; }
  int64_t depthwise_at() const { return packed_projection_size<W>(in); }
  int64_t out_at() const { return depthwise_at() + 2 * hp / W * kTaps; }
  int64_t packed_size() const { return out_at() + a.hidden * Cp + Cp; }
  int64_t scratch() const {
    return Rows::scratch(in) + Rows::row_pixels(in) * (hp + 2 * Cp + W) + 64;
  }

  // Those of the hidden features, then those of out.
  int64_t vectors() const { return (2 * hp + Cp) / W; }
  void pack(int64_t begin, int64_t end) const {
    const int64_t hidden = 2 * hp / W, last = end < hidden ? end : hidden;
    pack_projection<W, T>(in, a.packed, begin, last);
    pack_depthwise<W, 3>(in, a.depthwise, a.depthwise_bias, a.packed + depthwise_at(), begin, last);
    pack_projection<W, T>({0, 0, 0, a.hidden, 1, a.C, false, 0.f, {}, a.out_weight, a.out_bias},
                          a.packed + out_at(), begin > hidden ? begin - hidden : 0, end - hidden);
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    Rows hidden(in, a.packed, scratch);
    const int64_t pixels = Rows::row_pixels(in), gated_row = operand_row<W, T>(a.hidden);
    auto* gated = reinterpret_cast<Operand<T>*>(scratch + Rows::scratch(in));
    float* x_copy = scratch + Rows::scratch(in) + pixels * hp;
    float *buffer = x_copy + pixels * Cp, *line = buffer + pixels * Cp;
    clear_operands<W, T>(a.hidden, pixels, gated);
    const float *depthwise = a.packed + depthwise_at(), *out = a.packed + out_at();
    for_rows_of_strips(hidden, begin, end, [&](int64_t y) {
      const int n = int(hidden.x1 - hidden.x0);
      gate(hidden, y, depthwise, line, gated, gated_row);
      const Pixels x =
          read_pixels<W, T>(a.x, a.C, hidden.b, y, hidden.x0, n, x_copy);
      int64_t pixel;
      float* to = place_for_pixels<W, T>(a.out, a.C, hidden.b, y, hidden.x0, buffer, pixel);
      multiply_panels<W, T>(gated, gated_row, a.hidden, out, a.C, out + a.hidden * Cp, x.data,
                            x.pixel, to, pixel, n);
      write_pixels<W, T>(to, a.out, a.C, hidden.b, y, hidden.x0, n);
    });
  }

  MOCE_NOINLINE void gate(const Rows& hidden, int64_t y, const float* weight, float* line,
                          Operand<T>* to, int64_t to_row) const {
    const int64_t vectors = hp / W;
    for (int64_t v = 0; v < vectors; v++, weight += kTaps, to += W) {
      hidden.convolve(y, v, weight, [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
        store<W>(line + at * W, gelu<W, T>(sum));
      });
      hidden.convolve(y, vectors + v, weight + vectors * kTaps,
                      [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
                        store<W>(to + at * to_row, load<W>(line + at * W) * sum);
                      });
    }
  }
};

// With g = Wo^T grad: d(GELU(a)) = g b, db = g GELU(a).
template <int W, class T>
struct FeedForwardGradient : FeedForward<W, T> {
  using Base = FeedForward<W, T>;
  using Base::a, Base::in, Base::Cp, Base::hp, Base::kTaps, Base::depthwise_at;
  using typename Base::V;
  using Gradient = ProjectedGradient<W, T, 3>;
  using Rows = typename Gradient::Rows;

  explicit FeedForwardGradient(const GatedFeedForward& a) : Base(a) {}

  // Of the sums the last are those of the output projection (C, hp) and its bias.
  GradientSizes sizes() const {
    return {Gradient::rows(in), (2 * hp + Cp) / W, Gradient::packed_size(in) + a.C * hp,
            Gradient::sums_size(in) + a.C * hp + Cp,
            Gradient::scratch(in) + Rows::row_pixels(in) * (2 * hp + W + Cp) + 64};
  }
  void pack_gradient(int64_t begin, int64_t end) const {
    const int64_t hidden = 2 * hp / W;
    Gradient::pack(in, a.depthwise, a.gradient.packed, begin, end < hidden ? end : hidden);
    if (begin == 0)
      pack_panels<W, T>(a.out_weight, a.C, a.hidden, a.hidden, 1,
                        a.gradient.packed + Gradient::packed_size(in));
  }

  struct Buffers {
    float *dgated, *gated;  // a row with its halo, (hp) each
    float *line, *g_copy;   // likewise (W) and (Cp)
  };

  void backward(int64_t begin, int64_t end, float* scratch) const {
    Gradient hidden(in, a.gradient, a.packed, scratch);
    const int64_t pixels = Rows::row_pixels(in);
    Buffers b;
    b.dgated = scratch + Gradient::scratch(in);
    b.gated = b.dgated + pixels * hp;
    b.line = b.gated + pixels * hp;
    b.g_copy = b.line + pixels * W;
    hidden.run(begin, end, &a.grad, [&](int64_t y, float* sums) MOCE_INLINE_LAMBDA {
      gradient_row(hidden, y, b, sums ? sums + Gradient::sums_size(in) : nullptr);
    });
  }

  // The gradients of a and b of row y; the output projection's, where `sums` is not null.
  MOCE_NOINLINE void gradient_row(const Gradient& hidden, int64_t y, const Buffers& b,
                                  float* sums) const {
    const Rows& rows = hidden.made;
    const int64_t left = rows.left(), at = rows.offset(), after = at + rows.right() - left;
    const auto grad = read_operands<W, T>(a.grad, a.C, rows.b, y, left, int(after - at),
                                          reinterpret_cast<Operand<T>*>(b.g_copy));
    const float* out = a.gradient.packed + Gradient::packed_size(in);
    multiply_panels<W, T>(grad.data, grad.pixel, a.C, out, a.hidden, nullptr, nullptr, 0,
                          b.dgated + at * hp, hp, int(after - at));
    // The last group of pixels may end outside the image, where no gradient is.
    for (int64_t i = after * hp; i < Rows::row_pixels(in) * hp; i++) b.dgated[i] = 0.f;
    gate_gradient(rows, y, b, hidden.gradient_at(y));
    if (!sums) return;
    const int n = int(rows.x1 - rows.x0);
    const auto* g = grad.data + (rows.x0 - left) * grad.pixel;
    add_outer<W, T>(g, grad.pixel, a.C, b.gated + Gradient::kMargin * hp, hp, hp, n, sums);
    add_pixels<W>(g, grad.pixel, Cp, n, sums + a.C * hp);
  }

  MOCE_NOINLINE void gate_gradient(const Rows& rows, int64_t y, const Buffers& b,
                                   float* d) const {
    const int64_t vectors = hp / W;
    const float* weight = a.packed + depthwise_at();
    for (int64_t v = 0; v < vectors; v++, weight += kTaps) {
      rows.convolve(y, v, weight, [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
        store<W>(b.line + at * W, sum);
      });
      float *da = d + v * rows.vector, *db = d + (vectors + v) * rows.vector;
      rows.convolve(y, vectors + v, weight + vectors * kTaps,
                    [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
                      V slope;
                      const V value = gelu<W, T>(load<W>(b.line + at * W), slope);
                      const V g = load<W>(b.dgated + at * hp + v * W);
                      store<W>(b.gated + at * hp + v * W, value * sum);
                      store<W>(da + at * W, g * sum * slope);
                      store<W>(db + at * W, g * value);
                    });
    }
  }

  void reduce(int64_t begin, int64_t end) const {
    const int64_t hidden = 2 * hp / W, at = Gradient::sums_size(in);
    reduce_projection<W, 3>(in, a.gradient, begin, end < hidden ? end : hidden);
    for (int64_t c = (begin > hidden ? begin - hidden : 0) * W; c < (end - hidden) * W; c++) {
      if (c >= a.C) break;
      for (int64_t i = 0; i < a.hidden; i += W) {
        const V sum = sum_of_groups<W>(a.gradient, at + c * hp + i);
        store_first<W>(a.dout_weight + c * a.hidden + i, sum,
                       a.hidden - i < W ? int(a.hidden - i) : W);
      }
      const V bias = sum_of_groups<W>(a.gradient, at + a.C * hp + c / W * W);
      a.dout_bias[c] = bias[c % W];
    }
  }
};

template <class F>
auto dispatch(const GatedFeedForward& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(FeedForwardGradient<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(FeedForwardGradient<MOCE_LANES, Half>(a));
    default: return f(FeedForwardGradient<MOCE_LANES, float>(a));
  }
}

using G = GatedFeedForward;
extern const GatedFeedForwardKernel gated_feedforward_kernel = {
    [](const G& a) { return dispatch(a, [](auto k) { return k.packed_size(); }); },
    [](const G& a) { return dispatch(a, [](auto k) { return k.rows(); }); },
    [](const G& a) { return dispatch(a, [](auto k) { return k.scratch(); }); },
    [](const G& a) { return dispatch(a, [](auto k) { return k.vectors(); }); },
    [](const G& a, int64_t begin, int64_t end) {
      dispatch(a, [=](auto k) { k.pack(begin, end); });
    },
    [](const G& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.forward(begin, end, scratch); });
    },
    {
        [](const G& a) { return dispatch(a, [](auto k) { return k.sizes(); }); },
        [](const G& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.pack_gradient(begin, end); });
        },
        [](const G& a, int64_t begin, int64_t end, float* scratch) {
          dispatch(a, [=](auto k) { k.backward(begin, end, scratch); });
        },
        [](const G& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.reduce(begin, end); });
        },
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
