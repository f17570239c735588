// The operators moce_kernels::depthwise_conv and depthwise_conv_backward_weight on CPUs: checks,
// outputs, threads. The arithmetic is in depthwise_conv_kernel.cpp.

#include "depthwise_conv_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "capability.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(DepthwiseConvKernel, depthwise_conv)

namespace moce {

// Partial sums for the gradients of weight and bias; a fixed number, so that their order and with
// it the result does not depend on the number of threads.
constexpr int64_t kMaxGroups = 128;

static DepthwiseConv describe(const Tensor& x, int64_t kernel) {
  STD_TORCH_CHECK(kernel == 3 || kernel == 7, "the kernel must be 3 x 3 or 7 x 7");
  check_like(x, x, "x");
  DepthwiseConv a{};
  a.type = type_of(x);
  a.B = x.size(0);
  a.C = x.size(1);
  a.H = x.size(2);
  a.W = x.size(3);
  a.kernel = static_cast<int>(kernel);
  a.x = strided(x);
  return a;
}

static Tensor depthwise_conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                             bool flip) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight must be (C, 1, K, K)");
  const int64_t K = weight.size(3);
  DepthwiseConv a = describe(x, K);
  a.weight = float_vector(weight, a.C * K * K, "weight");
  a.flip = flip;
  a.bias = bias ? float_vector(*bias, a.C, "bias") : nullptr;
  Tensor out = new_output(x);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = depthwise_conv_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  kernel.pack(a, packed.get());
  a.packed = packed.get();
  torch::stable::parallel_for(
      0, a.tiles() * kernel.parts(a), 1, [&](int64_t begin, int64_t end) {
        kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
      });
  return out;
}

static std::tuple<Tensor, Tensor> depthwise_conv_backward_weight(const Tensor& grad,
                                                                 const Tensor& x, int64_t K) {
  DepthwiseConv a = describe(x, K);
  check_like(grad, x, "grad");
  Tensor dweight = empty_floats({a.C, 1, K, K}, x), dbias = empty_floats({a.C}, x);
  a.grad = strided(grad);
  a.groups = x.numel() == 0 ? 0 : std::min(a.tiles(), kMaxGroups);
  a.dweight = static_cast<float*>(dweight.mutable_data_ptr());
  a.dbias = static_cast<float*>(dbias.mutable_data_ptr());
  const auto& kernel = depthwise_conv_for_this_cpu();
  const int64_t sums_size = a.groups * kernel.packed_size(a);
  const Scratch sums = allocate_scratch(sums_size);
  std::fill_n(sums.get(), sums_size, 0.f);
  a.sums = sums.get();
  torch::stable::parallel_for(
      0, a.groups * kernel.backward_parts(a), 1, [&](int64_t begin, int64_t end) {
        kernel.backward_weight(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
      });
  kernel.reduce(a);
  return {dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("depthwise_conv", TORCH_BOX(&depthwise_conv));
  m.impl("depthwise_conv_backward_weight", TORCH_BOX(&depthwise_conv_backward_weight));
}

}  // namespace moce
