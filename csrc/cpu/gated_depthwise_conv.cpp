// The operators moce_kernels::gated_depthwise_conv and gated_depthwise_conv_backward on CPUs: checks,
// outputs, threads. The arithmetic is in gated_depthwise_conv_kernel.cpp.

#include "gated_depthwise_conv_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "capability.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(GatedDepthwiseConvKernel, gated_depthwise_conv)

namespace moce {

constexpr int64_t kMostGroups = 8;

static GatedDepthwiseConv describe(const Tensor& x, const Tensor& weight) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(x.size(1) % 2 == 0, "x must have an even number of channels");
  GatedDepthwiseConv a{};
  a.type = type_of(x);
  a.B = x.size(0);
  a.C = x.size(1) / 2;
  a.H = x.size(2);
  a.W = x.size(3);
  a.x = strided(x);
  a.weight = float_vector(weight, 2 * a.C * 9, "weight");
  return a;
}

static Tensor gated_depthwise_conv(const Tensor& x, const Tensor& weight,
                                   std::optional<Tensor> bias) {
  GatedDepthwiseConv a = describe(x, weight);
  a.bias = bias ? float_vector(*bias, 2 * a.C, "bias") : nullptr;
  Tensor out = new_output(x, a.C);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = gated_depthwise_conv_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  kernel.pack(a);
  torch::stable::parallel_for(
      0, a.tiles() * kernel.blocks(a), 1, [&](int64_t begin, int64_t end) {
        kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
      });
  return out;
}

static std::tuple<Tensor, Tensor, Tensor> gated_depthwise_conv_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> bias) {
  GatedDepthwiseConv a = describe(x, weight);
  a.bias = bias ? float_vector(*bias, 2 * a.C, "bias") : nullptr;
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.size(0) == a.B && grad.size(1) == a.C && grad.size(2) == a.H &&
                      grad.size(3) == a.W,
                  "grad must have the output's shape and x's dtype");
  Tensor dx = new_output(x), dweight = empty_floats({2 * a.C, 1, 3, 3}, x);
  Tensor dbias = empty_floats({2 * a.C}, x);
  a.grad = strided(grad);
  a.dx = strided(dx);
  a.groups = x.numel() == 0 ? 0 : std::min(a.tiles(), kMostGroups);
  a.dweight = static_cast<float*>(dweight.mutable_data_ptr());
  a.dbias = static_cast<float*>(dbias.mutable_data_ptr());
  const auto& kernel = gated_depthwise_conv_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  kernel.pack(a);
  const int64_t size = a.groups * kernel.packed_size(a);
  const Scratch sums = allocate_scratch(size);
  std::fill_n(sums.get(), size, 0.f);
  a.sums = sums.get();
  torch::stable::parallel_for(0, a.groups, 1, [&](int64_t begin, int64_t end) {
    kernel.backward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  kernel.reduce(a);
  return {dx, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("gated_depthwise_conv", TORCH_BOX(&gated_depthwise_conv));
  m.impl("gated_depthwise_conv_backward", TORCH_BOX(&gated_depthwise_conv_backward));
}

}  // namespace moce
