// A whole GDFN for CPUs: out = x + Wo (GELU(a) b) + bo with a, b = DW3x3(Wi n(x) + bi), n the
// normalisation over channels. Row by row of a strip of columns: the hidden features of three rows
// stay in a second-level cache (see projected_rows.h), so that x is read and out is written once
// and nothing else passes through memory. 2 C 3h + 36 h + about 90 h float operations a pixel, h
// the gate's channels.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "gated_feedforward_kernel.h"

#include "gelu.h"
#include "projected_rows.h"

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
    return Rows::scratch(in) + Rows::row_pixels(in) * (hp + 2 * Cp) + 64;
  }

  // Those of the hidden features, then those of out.
  int64_t vectors() const { return (2 * hp + Cp) / W; }
  void pack(int64_t begin, int64_t end) const {
    const int64_t hidden = 2 * hp / W, last = end < hidden ? end : hidden;
    pack_projection<W>(in, a.packed, begin, last);
    pack_depthwise<W, 3>(in, a.depthwise, a.depthwise_bias, a.packed + depthwise_at(), begin, last);
    pack_projection<W>({0, 0, 0, a.hidden, 1, a.C, false, 0.f, {}, a.out_weight, a.out_bias},
                       a.packed + out_at(), begin > hidden ? begin - hidden : 0, end - hidden);
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    Rows hidden(in, a.packed, scratch);
    float* gated = scratch + Rows::scratch(in);
    float *x_copy = gated + Rows::row_pixels(in) * hp, *buffer = x_copy + Rows::row_pixels(in) * Cp;
    const float *depthwise = a.packed + depthwise_at(), *out = a.packed + out_at();
    for_rows_of_strips(hidden, begin, end, [&](int64_t y) {
      const int n = int(hidden.x1 - hidden.x0);
      gate(hidden, y, depthwise, gated);
      const Pixels x =
          read_pixels<W, T>(a.x, a.C, hidden.b, y, hidden.x0, n, x_copy);
      int64_t pixel;
      float* to = place_for_pixels<W, T>(a.out, a.C, hidden.b, y, hidden.x0, buffer, pixel);
      multiply_panels<W>(gated, hp, a.hidden, out, a.C, out + a.hidden * Cp, x.data, x.pixel,
                         to, pixel, n);
      write_pixels<W, T>(to, a.out, a.C, hidden.b, y, hidden.x0, n);
    });
  }

  MOCE_NOINLINE void gate(const Rows& hidden, int64_t y, const float* weight, float* to) const {
    const int64_t vectors = hp / W;
    for (int64_t v = 0; v < vectors; v++, weight += kTaps, to += W) {
      hidden.convolve(y, v, weight, [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
        store<W>(to + at * hp, gelu<W>(sum));
      });
      hidden.convolve(y, vectors + v, weight + vectors * kTaps,
                      [&](int64_t at, V sum) MOCE_INLINE_LAMBDA {
                        store<W>(to + at * hp, load<W>(to + at * hp) * sum);
                      });
    }
  }
};

template <class F>
auto dispatch(const GatedFeedForward& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(FeedForward<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(FeedForward<MOCE_LANES, Half>(a));
    default: return f(FeedForward<MOCE_LANES, float>(a));
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
};

}  // namespace MOCE_ISA
}  // namespace moce
