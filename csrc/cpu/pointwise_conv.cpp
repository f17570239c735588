// The operators moce_kernels::pointwise_conv and pointwise_conv_backward on CPUs: checks, outputs,
// threads. The arithmetic is in pointwise_conv_kernel.cpp.

#include "pointwise_conv_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "capability.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(PointwiseConvKernel, pointwise_conv)

namespace moce {

static PointwiseConv describe(const Tensor& x, const Tensor& weight, bool norm, double eps) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1),
                  "weight must be (channels of out, channels of x)");
  PointwiseConv a{};
  a.type = type_of(x);
  a.B = x.size(0);
  a.H = x.size(2);
  a.W = x.size(3);
  a.inner = x.size(1);
  a.outer = weight.size(0);
  a.norm = norm;
  a.eps = static_cast<float>(eps);
  a.x = strided(x);
  a.weight = float_vector(weight, a.inner * a.outer, "weight");
  return a;
}

// Blocks do not end with an image's rows where these follow each other in every tensor.
static void flatten(PointwiseConv& a) {
  for (const Strided* s : {&a.x, &a.residual, &a.out, &a.grad, &a.dx})
    if (s->data && a.H > 1 && s->h != a.W * s->w) return;
  a.W *= a.H;
  a.H = 1;
}

static Tensor pointwise_conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                             std::optional<Tensor> residual, bool norm, double eps) {
  PointwiseConv a = describe(x, weight, norm, eps);
  a.bias = bias ? float_vector(*bias, a.outer, "bias") : nullptr;
  Tensor out = new_output(x, a.outer);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  if (residual) {
    check_like(*residual, out, "residual");
    a.residual = strided(*residual);
  }
  flatten(a);
  const auto& kernel = pointwise_conv_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  kernel.pack(a, false);
  torch::stable::parallel_for(0, kernel.blocks(a), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  return out;
}

static std::tuple<Tensor, Tensor, Tensor> pointwise_conv_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> plus, bool norm,
    double eps, bool needs_x, bool needs_weight) {
  PointwiseConv a = describe(x, weight, norm, eps);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.size(0) == a.B && grad.size(1) == a.outer && grad.size(2) == a.H &&
                      grad.size(3) == a.W,
                  "grad must have the output's shape and x's dtype");
  Tensor dx = needs_x ? new_output(x, a.inner) : empty_floats({0}, x);
  Tensor dweight = empty_floats({needs_weight ? a.outer : 0, a.inner}, x);
  Tensor dbias = empty_floats({needs_weight ? a.outer : 0}, x);
  a.dweight = static_cast<float*>(dweight.mutable_data_ptr());
  a.dbias = static_cast<float*>(dbias.mutable_data_ptr());
  if (x.numel() == 0 || grad.numel() == 0) {
    std::fill_n(a.dweight, dweight.numel(), 0.f);
    std::fill_n(a.dbias, dbias.numel(), 0.f);
    return {dx, dweight, dbias};
  }
  a.grad = strided(grad);
  if (needs_x) a.dx = strided(dx);
  if (plus) {
    check_like(*plus, x, "plus");
    a.residual = strided(*plus);
  }
  flatten(a);
  const auto& kernel = pointwise_conv_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  kernel.pack(a, true);
  // As many sums as pay for adding them up, whatever the number of threads.
  a.groups = std::clamp<int64_t>(kernel.blocks(a) / 8, std::min<int64_t>(2, kernel.blocks(a)), 8);
  const int64_t size = needs_weight ? a.groups * kernel.sums_size(a) : 0;
  const Scratch sums = allocate_scratch(size);
  std::fill_n(sums.get(), size, 0.f);
  a.sums = needs_weight ? sums.get() : nullptr;
  torch::stable::parallel_for(0, a.groups, 1, [&](int64_t begin, int64_t end) {
    kernel.backward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  if (needs_weight) kernel.reduce(a);
  return {dx, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("pointwise_conv", TORCH_BOX(&pointwise_conv));
  m.impl("pointwise_conv_backward", TORCH_BOX(&pointwise_conv_backward));
}

}  // namespace moce
