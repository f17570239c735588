// 1x1 convolution for CPUs: out = W n(x) + b + residual with n the identity or the normalisation
// over channels, and its gradients. A matrix product over blocks of pixels that stay in a
// first-level cache: x, residual and out pass once through memory. 2 inner outer float operations
// for each pixel; backward twice that.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "pointwise_conv_kernel.h"

#include "channel_norm.h"
#include "matmul.h"
#include "pixels.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kBlock = 48;  // pixels

template <int W, class T>
struct Pointwise {
  const PointwiseConv& a;
  const int64_t Kp, Np;  // channels of x and of out up to whole vectors
  const int64_t per_row;

  explicit Pointwise(const PointwiseConv& a)
      : a(a), Kp(whole<W>(a.inner)), Np(whole<W>(a.outer)), per_row((a.W + kBlock - 1) / kBlock) {}

  int64_t blocks() const { return a.B * a.H * per_row; }
  // Forward: panels of W transposed, and the bias. Backward: panels of W.
  int64_t packed_size() const {
    const int64_t forward = a.inner * Np + Np, backward = a.outer * Kp;
    return forward > backward ? forward : backward;
  }
  int64_t sums_size() const { return a.outer * Kp + Np; }
  int64_t scratch() const { return kBlock * (4 * Kp + 2 * Np + 1) + 16; }

  void pack(bool backward) const {
    if (backward) {
      pack_panels<W, T>(a.weight, a.outer, a.inner, a.inner, 1, a.packed);
      return;
    }
    pack_panels<W, T>(a.weight, a.inner, a.outer, 1, a.inner, a.packed);
    float* bias = a.packed + a.inner * Np;
    for (int64_t n = 0; n < Np; n++) bias[n] = a.bias && n < a.outer ? a.bias[n] : 0.f;
  }

  struct Place {
    int64_t b, y, x;
    int count;
  };
  Place place(int64_t i) const {
    const int64_t x = i % per_row * kBlock, row = i / per_row;
    return {row / a.H, row % a.H, x, a.W - x < kBlock ? int(a.W - x) : kBlock};
  }

  using In = Operand<T>;
  // Beside a block of x.
  In* normed_in(float* scratch) const {
    In* normed = reinterpret_cast<In*>(scratch + kBlock * Kp);
    clear_operands<W, T>(a.inner, kBlock, normed);
    return normed;
  }
  PixelsOf<In> inputs(int64_t b, int64_t y, int64_t x, int count, float* x_copy, In* normed,
                      float* rstd) const {
    if (!a.norm)
      return read_operands<W, T>(a.x, a.inner, b, y, x, count, reinterpret_cast<In*>(x_copy));
    const int64_t row = operand_row<W, T>(a.inner);
    with_pixels<W, T>(a.x, a.inner, b, y, x, count, x_copy, [&](const auto& pixels) {
      normalise<W>(pixels.data, pixels.pixel, a.inner, a.eps, count, normed, row, rstd);
    });
    return {normed, row};
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    float *x_copy = scratch, *start = x_copy + 2 * kBlock * Kp;
    float *buffer = start + kBlock * Np, *rstd = buffer + kBlock * Np;
    In* normed = normed_in(scratch);
    for (int64_t i = begin; i < end; i++) {
      const auto [b, y, x, n] = place(i);
      const PixelsOf<In> in = inputs(b, y, x, n, x_copy, normed, rstd);
      Pixels from{nullptr, 0};
      if (a.residual.data) from = read_pixels<W, T>(a.residual, a.outer, b, y, x, n, start);
      int64_t pixel;
      float* to = place_for_pixels<W, T>(a.out, a.outer, b, y, x, buffer, pixel);
      multiply_panels<W, T>(in.data, in.pixel, a.inner, a.packed, a.outer,
                            a.bias ? a.packed + a.inner * Np : nullptr, from.data, from.pixel, to,
                            pixel, n);
      write_pixels<W, T>(to, a.out, a.outer, b, y, x, n);
    }
  }

  void backward(int64_t begin, int64_t end, float* scratch) const {
    float *x_copy = scratch, *d = x_copy + 2 * kBlock * Kp;
    float *plus = d + kBlock * Kp, *g_copy = plus + kBlock * Kp, *rstd = g_copy + kBlock * Np;
    In* normed = normed_in(scratch);
    for (int64_t group = begin; group < end; group++) {
      float *dweight = a.sums + group * sums_size(), *dbias = dweight + a.outer * Kp;
      for (int64_t i = blocks() * group / a.groups; i < blocks() * (group + 1) / a.groups; i++) {
        const auto [b, y, x, n] = place(i);
        const auto g =
            read_operands<W, T>(a.grad, a.outer, b, y, x, n, reinterpret_cast<In*>(g_copy));
        PixelsOf<In> in{nullptr, 0};
        if (a.sums || a.norm) in = inputs(b, y, x, n, x_copy, normed, rstd);
        if (a.sums) {
          add_outer<W, T>(g.data, g.pixel, a.outer, in.data, in.pixel, Kp, n, dweight);
          add_pixels<W>(g.data, g.pixel, Np, n, dbias);
        }
        if (!a.dx.data) continue;
        Pixels more{nullptr, 0};
        if (a.residual.data) more = read_pixels<W, T>(a.residual, a.inner, b, y, x, n, plus);
        int64_t pixel;
        float* to = place_for_pixels<W, T>(a.dx, a.inner, b, y, x, x_copy, pixel);
        if (a.norm) {
          multiply_panels<W, T>(g.data, g.pixel, a.outer, a.packed, a.inner, nullptr, nullptr, 0, d,
                                Kp, n);
          normalise_gradient<W>(d, normed, in.pixel, rstd, a.inner, n, to, pixel, more.data,
                                more.pixel);
        } else {
          multiply_panels<W, T>(g.data, g.pixel, a.outer, a.packed, a.inner, nullptr, more.data,
                                more.pixel, to, pixel, n);
        }
        write_pixels<W, T>(to, a.dx, a.inner, b, y, x, n);
      }
    }
  }

  void reduce() const {
    const int64_t size = sums_size();
    for (int64_t group = 1; group < a.groups; group++)
      for (int64_t i = 0; i < size; i++) a.sums[i] += a.sums[group * size + i];
    for (int64_t n = 0; n < a.outer; n++) {
      for (int64_t k = 0; k < a.inner; k++) a.dweight[n * a.inner + k] = a.sums[n * Kp + k];
      a.dbias[n] = a.sums[a.outer * Kp + n];
    }
  }
};

template <class F>
auto dispatch(const PointwiseConv& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(Pointwise<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(Pointwise<MOCE_LANES, Half>(a));
    default: return f(Pointwise<MOCE_LANES, float>(a));
  }
}

extern const PointwiseConvKernel pointwise_conv_kernel = {
    [](const PointwiseConv& a) { return dispatch(a, [](auto k) { return k.blocks(); }); },
    [](const PointwiseConv& a) { return dispatch(a, [](auto k) { return k.packed_size(); }); },
    [](const PointwiseConv& a) { return dispatch(a, [](auto k) { return k.sums_size(); }); },
    [](const PointwiseConv& a) { return dispatch(a, [](auto k) { return k.scratch(); }); },
    [](const PointwiseConv& a, bool backward) {
      dispatch(a, [=](auto k) { k.pack(backward); });
    },
    [](const PointwiseConv& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.forward(begin, end, scratch); });
    },
    [](const PointwiseConv& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.backward(begin, end, scratch); });
    },
    [](const PointwiseConv& a) { dispatch(a, [](auto k) { k.reduce(); }); },
};

}  // namespace MOCE_ISA
}  // namespace moce
