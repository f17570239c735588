// Depthwise K x K convolution of a 1x1 convolution for CPUs: out = DW(W n(x) + b), n the
// normalisation over channels or the identity. Row by row of a strip of columns: K rows of the 1x1
// convolution's outputs stay in a second-level cache (see projected_rows.h), so that x is read and
// out is written once. 2 inner outer + 2 K K outer float operations a pixel; backward three times as
// many (see projected_gradient.h).
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "projected_depthwise_conv_kernel.h"

#include "projected_gradient.h"

namespace moce {
inline namespace MOCE_ISA {

template <int W, class T, int K>
struct ProjectedDepthwise {
  using Rows = ProjectedRows<W, T, K>;
  static constexpr int kTaps = Depthwise<K, W>::kPacked;
  const ProjectedDepthwiseConv& a;
  const Projection in;
  const int64_t Np;  // channels of out up to whole vectors

  explicit ProjectedDepthwise(const ProjectedDepthwiseConv& a)
      : a(a),
        in{a.B, a.H, a.W, a.inner, 1, a.outer, a.norm, a.eps, a.x, a.weight, a.bias},
        Np(whole<W>(a.outer)) {}

  int64_t rows() const { return a.B * a.H * strips<W, K>(in).count; }
  int64_t packed_size() const { return packed_projection_size<W>(in) + Np / W * kTaps; }
  int64_t scratch() const { return Rows::scratch(in) + Rows::row_pixels(in) * Np + 64; }

  int64_t vectors() const { return Np / W; }
  void pack(int64_t begin, int64_t end) const {
    pack_projection<W, T>(in, a.packed, begin, end);
    pack_depthwise<W, K>(in, a.depthwise, a.depthwise_bias,
                         a.packed + packed_projection_size<W>(in), begin, end);
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    Rows projected(in, a.packed, scratch);
    float* buffer = scratch + Rows::scratch(in);
    for_rows_of_strips(projected, begin, end, [&](int64_t y) {
      const int n = int(projected.x1 - projected.x0);
      int64_t pixel;
      float* to =
          place_for_pixels<W, T>(a.out, a.outer, projected.b, y, projected.x0, buffer, pixel);
      convolve_row(projected, y, n, to, pixel);
      write_pixels<W, T>(to, a.out, a.outer, projected.b, y, projected.x0, n);
    });
  }

  MOCE_NOINLINE void convolve_row(const Rows& projected, int64_t y, int count, float* to,
                                  int64_t pixel) const {
    const float* weight = a.packed + packed_projection_size<W>(in);
    for (int64_t v = 0; v < Np / W; v++, weight += kTaps, to += W)
      projected.convolve(y, v, weight, [&](int64_t at, Vec<W> sum) MOCE_INLINE_LAMBDA {
        if (at < count) store<W>(to + at * pixel, sum);
      });
  }
};

template <int W, class T, int K>
struct ProjectedDepthwiseGradient : ProjectedDepthwise<W, T, K> {
  using Base = ProjectedDepthwise<W, T, K>;
  using Base::a, Base::in, Base::Np;
  using Gradient = ProjectedGradient<W, T, K>;

  explicit ProjectedDepthwiseGradient(const ProjectedDepthwiseConv& a) : Base(a) {}

  GradientSizes sizes() const {
    return {Gradient::rows(in), Np / W, Gradient::packed_size(in), Gradient::sums_size(in),
            Gradient::scratch(in) + 64};
  }
  void pack_gradient(int64_t begin, int64_t end) const {
    Gradient::pack(in, a.depthwise, a.gradient.packed, begin, end);
  }
  void reduce(int64_t begin, int64_t end) const {
    reduce_projection<W, K>(in, a.gradient, begin, end);
  }

  void backward(int64_t begin, int64_t end, float* scratch) const {
    Gradient projected(in, a.gradient, a.packed, scratch);
    projected.run(begin, end, nullptr, [&](int64_t y, float*) MOCE_INLINE_LAMBDA {
      const auto& rows = projected.made;
      const T* from = pixel_at<T>(a.grad, rows.b, y, rows.left());
      float* to = projected.gradient_at(y) + rows.offset() * W;
      for (int64_t i = 0; i < a.outer; i += W, to += rows.vector)
        gather_pixels<W>(from + i * a.grad.c, a.grad, a.outer - i < W ? int(a.outer - i) : W,
                         int(rows.right() - rows.left()), to, W);
    });
  }
};

template <class T, class F>
auto dispatch(const ProjectedDepthwiseConv& a, F&& f) {
  if (a.kernel == 3) return f(ProjectedDepthwiseGradient<MOCE_LANES, T, 3>(a));
  return f(ProjectedDepthwiseGradient<MOCE_LANES, T, 7>(a));
}
template <class F>
auto dispatch(const ProjectedDepthwiseConv& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return dispatch<BFloat16>(a, f);
    case Type::kHalf: return dispatch<Half>(a, f);
    default: return dispatch<float>(a, f);
  }
}

using P = ProjectedDepthwiseConv;
extern const ProjectedDepthwiseConvKernel projected_depthwise_conv_kernel = {
    [](const P& a) { return dispatch(a, [](auto k) { return k.packed_size(); }); },
    [](const P& a) { return dispatch(a, [](auto k) { return k.rows(); }); },
    [](const P& a) { return dispatch(a, [](auto k) { return k.scratch(); }); },
    [](const P& a) { return dispatch(a, [](auto k) { return k.vectors(); }); },
    [](const P& a, int64_t begin, int64_t end) {
      dispatch(a, [=](auto k) { k.pack(begin, end); });
    },
    [](const P& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.forward(begin, end, scratch); });
    },
    {
        [](const P& a) { return dispatch(a, [](auto k) { return k.sizes(); }); },
        [](const P& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.pack_gradient(begin, end); });
        },
        [](const P& a, int64_t begin, int64_t end, float* scratch) {
          dispatch(a, [=](auto k) { k.backward(begin, end, scratch); });
        },
        [](const P& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.reduce(begin, end); });
        },
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
