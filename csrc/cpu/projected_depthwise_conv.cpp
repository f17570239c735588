// The operators moce_kernels::projected_depthwise_conv and projected_depthwise_conv_backward on CPUs:
// checks, outputs, threads. The arithmetic is in projected_depthwise_conv_kernel.cpp.

#include "projected_depthwise_conv_kernel.h"

#include <optional>
#include <tuple>

#include "capability.h"
#include "gradient_groups.h"

MOCE_DECLARE_KERNEL(ProjectedDepthwiseConvKernel, projected_depthwise_conv)

namespace moce {

static ProjectedDepthwiseConv describe(const Tensor& x, const Tensor& weight,
                                       std::optional<Tensor> bias, const Tensor& depthwise,
                                       bool norm, double eps) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1),
                  "weight must be (channels of out, channels of x)");
  STD_TORCH_CHECK(depthwise.dim() == 4 && (depthwise.size(3) == 3 || depthwise.size(3) == 7),
                  "depthwise must be (channels of out, 1, K, K) with K 3 or 7");
  ProjectedDepthwiseConv a{};
  a.type = type_of(x);
  a.B = x.size(0);
  a.inner = x.size(1);
  a.H = x.size(2);
  a.W = x.size(3);
  a.outer = weight.size(0);
  a.kernel = static_cast<int>(depthwise.size(3));
  a.norm = norm;
  a.eps = static_cast<float>(eps);
  a.x = strided(x);
  a.weight = float_vector(weight, a.outer * a.inner, "weight");
  a.bias = bias ? float_vector(*bias, a.outer, "bias") : nullptr;
  a.depthwise = float_vector(depthwise, a.outer * a.kernel * a.kernel, "depthwise");
  return a;
}

static Scratch pack(ProjectedDepthwiseConv& a, const ProjectedDepthwiseConvKernel& kernel) {
  Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  torch::stable::parallel_for(0, kernel.vectors(a), kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.pack(a, begin, end); });
  return packed;
}

static Tensor projected_depthwise_conv(const Tensor& x, const Tensor& weight,
                                       std::optional<Tensor> bias, const Tensor& depthwise,
                                       std::optional<Tensor> depthwise_bias, bool norm,
                                       double eps) {
  ProjectedDepthwiseConv a = describe(x, weight, bias, depthwise, norm, eps);
  a.depthwise_bias =
      depthwise_bias ? float_vector(*depthwise_bias, a.outer, "depthwise_bias") : nullptr;
  Tensor out = new_output(x, a.outer);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = projected_depthwise_conv_for_this_cpu();
  const Scratch packed = pack(a, kernel);
  torch::stable::parallel_for(0, kernel.rows(a), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
static Gradients projected_depthwise_conv_backward(const Tensor& grad, const Tensor& x,
                                                   const Tensor& weight,
                                                   std::optional<Tensor> bias,
                                                   const Tensor& depthwise, bool norm,
                                                   double eps) {
  ProjectedDepthwiseConv a = describe(x, weight, bias, depthwise, norm, eps);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.size(0) == a.B && grad.size(1) == a.outer && grad.size(2) == a.H &&
                      grad.size(3) == a.W,
                  "grad must have the output's shape and x's dtype");
  Tensor dx = new_output(x), dweight = empty_floats({a.outer, a.inner}, x);
  Tensor dbias = empty_floats({a.outer}, x);
  Tensor ddepthwise = empty_floats({a.outer, 1, a.kernel, a.kernel}, x);
  Tensor ddepthwise_bias = empty_floats({a.outer}, x);
  if (x.numel() == 0 || grad.numel() == 0) {
    zero({dweight, dbias, ddepthwise, ddepthwise_bias});
  } else {
    a.grad = strided(grad);
    a.gradient.dx = strided(dx);
    a.gradient.weight = floats(dweight);
    a.gradient.bias = floats(dbias);
    a.gradient.depthwise = floats(ddepthwise);
    a.gradient.depthwise_bias = floats(ddepthwise_bias);
    const auto& kernel = projected_depthwise_conv_for_this_cpu();
    const Scratch packed = pack(a, kernel);
    compute_gradients(a, kernel.gradient);
  }
  return {dx, dweight, dbias, ddepthwise, ddepthwise_bias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("projected_depthwise_conv", TORCH_BOX(&projected_depthwise_conv));
  m.impl("projected_depthwise_conv_backward", TORCH_BOX(&projected_depthwise_conv_backward));
}

}  // namespace moce
