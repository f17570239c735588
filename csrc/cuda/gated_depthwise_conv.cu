// The operators moce_kernels::gated_depthwise_conv and gated_depthwise_conv_backward on GPUs: checks,
// outputs, launches. The arithmetic is in gated_depthwise_conv_kernel.cu and depthwise_conv_kernel.cu.

#include "gated_depthwise_conv_kernel.h"

#include <optional>
#include <tuple>

#include "depthwise_conv.h"
#include "depthwise_tiles.h"
#include "sum_rows.h"

namespace moce {

static const GatedDepthwiseConvKernel& kernel_of(const Tensor& t) {
  return for_type_of(t, gated_depthwise_conv_float, gated_depthwise_conv_bfloat16,
                     gated_depthwise_conv_half);
}

static GatedDepthwiseConv describe(const Tensor& x, const Tensor& weight,
                                   const std::optional<Tensor>& bias) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(x.size(1) % 2 == 0, "x must have an even number of channels");
  GatedDepthwiseConv g{};
  g.B = x.size(0);
  g.C = x.size(1) / 2;
  g.H = x.size(2);
  g.W = x.size(3);
  g.x = strided(x);
  g.pairs = has_pairs(g.x, g.C, type_of(x));
  g.weight = float_vector(weight, 2 * g.C * 9, "weight");
  g.bias = bias ? float_vector(*bias, 2 * g.C, "bias") : nullptr;
  return g;
}

static Tensor gated_depthwise_conv(const Tensor& x, const Tensor& weight,
                                   std::optional<Tensor> bias) {
  GatedDepthwiseConv g = describe(x, weight, bias);
  const Device device(x);
  Tensor out = new_like(x, g.C);
  if (out.numel() == 0) return out;
  g.out = strided(out);
  kernel_of(x).forward(g, device.multiprocessors(), device.stream());
  return out;
}

static std::tuple<Tensor, Tensor, Tensor> gated_depthwise_conv_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> bias) {
  GatedDepthwiseConv g = describe(x, weight, bias);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.size(0) == g.B && grad.size(1) == g.C && grad.size(2) == g.H &&
                      grad.size(3) == g.W,
                  "grad must have the output's shape and x's dtype");
  const Device device(x);
  Tensor d = new_like(x);  // the gradients of a and b
  g.grad = strided(grad);
  g.out = strided(d);
  g.pairs = g.pairs && has_pairs(g.grad, g.C, type_of(grad));
  const int64_t rows = bias && x.numel()
                           ? summed_rows(kernel_of(x).backward_tiles(g, device.multiprocessors()))
                           : 0;
  Tensor sums = empty_floats({rows, 2 * g.C}, x);
  g.sums = rows ? static_cast<float*>(sums.mutable_data_ptr()) : nullptr;
  if (x.numel()) kernel_of(x).backward(g, device.multiprocessors(), device.stream());
  // The gradient of the bias is the sum of what is not rounded yet.
  auto [dweight, dbias] = depthwise_conv_backward_weight(d, x, 3);
  if (rows) {
    float* to = static_cast<float*>(dbias.mutable_data_ptr());
    sum_rows(sums, to, 2 * g.C, nullptr, device.stream());
  }
  return {depthwise_conv(d, weight, nullptr, true), dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("gated_depthwise_conv", TORCH_BOX(&gated_depthwise_conv));
  m.impl("gated_depthwise_conv_backward", TORCH_BOX(&gated_depthwise_conv_backward));
}

}  // namespace moce
