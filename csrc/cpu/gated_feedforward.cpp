// The operators moce_kernels::gated_feedforward and gated_feedforward_backward on CPUs: checks,
// outputs, threads. The arithmetic is in gated_feedforward_kernel.cpp.

#include "gated_feedforward_kernel.h"

#include <optional>
#include <tuple>

#include "capability.h"
#include "gradient_groups.h"

MOCE_DECLARE_KERNEL(GatedFeedForwardKernel, gated_feedforward)

namespace moce {

static GatedFeedForward describe(const Tensor& x, const Tensor& in, std::optional<Tensor> in_bias,
                                 const Tensor& depthwise, std::optional<Tensor> depthwise_bias,
                                 const Tensor& out_weight, bool norm, double eps) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(out_weight.dim() == 2 && out_weight.size(0) == x.size(1),
                  "project_out must be (channels of x, hidden)");
  GatedFeedForward a{};
  a.type = type_of(x);
  a.B = x.size(0);
  a.C = x.size(1);
  a.H = x.size(2);
  a.W = x.size(3);
  a.hidden = out_weight.size(1);
  a.norm = norm;
  a.eps = static_cast<float>(eps);
  a.x = strided(x);
  a.in = float_vector(in, 2 * a.hidden * a.C, "project_in");
  a.in_bias = in_bias ? float_vector(*in_bias, 2 * a.hidden, "in_bias") : nullptr;
  a.depthwise = float_vector(depthwise, 2 * a.hidden * 9, "depthwise");
  a.depthwise_bias =
      depthwise_bias ? float_vector(*depthwise_bias, 2 * a.hidden, "depthwise_bias") : nullptr;
  a.out_weight = float_vector(out_weight, a.C * a.hidden, "project_out");
  return a;
}

static Scratch pack(GatedFeedForward& a, const GatedFeedForwardKernel& kernel) {
  Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  torch::stable::parallel_for(0, kernel.vectors(a), kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.pack(a, begin, end); });
  return packed;
}

static Tensor gated_feedforward(const Tensor& x, const Tensor& in, std::optional<Tensor> in_bias,
                                const Tensor& depthwise, std::optional<Tensor> depthwise_bias,
                                const Tensor& out_weight, std::optional<Tensor> out_bias, bool norm,
                                double eps) {
  GatedFeedForward a = describe(x, in, in_bias, depthwise, depthwise_bias, out_weight, norm, eps);
  a.out_bias = out_bias ? float_vector(*out_bias, a.C, "out_bias") : nullptr;
  Tensor out = new_output(x);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = gated_feedforward_for_this_cpu();
  const Scratch packed = pack(a, kernel);
  torch::stable::parallel_for(0, kernel.rows(a), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
static Gradients gated_feedforward_backward(const Tensor& grad, const Tensor& x, const Tensor& in,
                                            std::optional<Tensor> in_bias, const Tensor& depthwise,
                                            std::optional<Tensor> depthwise_bias,
                                            const Tensor& out_weight, bool norm, double eps) {
  GatedFeedForward a = describe(x, in, in_bias, depthwise, depthwise_bias, out_weight, norm, eps);
  check_like(grad, x, "grad");
  Tensor dx = new_output(x), din = empty_floats({2 * a.hidden, a.C}, x);
  Tensor din_bias = empty_floats({2 * a.hidden}, x);
  Tensor ddepthwise = empty_floats({2 * a.hidden, 1, 3, 3}, x);
  Tensor ddepthwise_bias = empty_floats({2 * a.hidden}, x);
  Tensor dout = empty_floats({a.C, a.hidden}, x), dout_bias = empty_floats({a.C}, x);
  a.gradient.weight = floats(din);
  a.gradient.bias = floats(din_bias);
  a.gradient.depthwise = floats(ddepthwise);
  a.gradient.depthwise_bias = floats(ddepthwise_bias);
  a.dout_weight = floats(dout);
  a.dout_bias = floats(dout_bias);
  if (x.numel() == 0) {
    zero({din, din_bias, ddepthwise, ddepthwise_bias, dout, dout_bias});
  } else {
    a.grad = strided(grad);
    a.gradient.dx = strided(dx);
    const auto& kernel = gated_feedforward_for_this_cpu();
    const Scratch packed = pack(a, kernel);
    compute_gradients(a, kernel.gradient);
  }
  return {dx, din, din_bias, ddepthwise, ddepthwise_bias, dout, dout_bias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("gated_feedforward", TORCH_BOX(&gated_feedforward));
  m.impl("gated_feedforward_backward", TORCH_BOX(&gated_feedforward_backward));
}

}  // namespace moce
