// The operators moce_kernels::depthwise_conv and depthwise_conv_backward_weight on GPUs: checks,
// outputs, launches. The arithmetic is in depthwise_conv_kernel.cu.

#include "depthwise_conv.h"

#include <optional>

#include "depthwise_conv_kernel.h"
#include "depthwise_tiles.h"
#include "sum_rows.h"

namespace moce {

static const DepthwiseConvKernel& kernel_of(const Tensor& t) {
  return for_type_of(t, depthwise_conv_float, depthwise_conv_bfloat16, depthwise_conv_half);
}

static DepthwiseConv describe(const Tensor& x, int64_t kernel) {
  STD_TORCH_CHECK(kernel == 3 || kernel == 7, "the kernel must be 3 x 3 or 7 x 7");
  check_like(x, x, "x");
  DepthwiseConv a{};
  a.B = x.size(0);
  a.C = x.size(1);
  a.H = x.size(2);
  a.W = x.size(3);
  a.x = strided(x);
  a.pairs = has_pairs(a.x, a.C, type_of(x));
  return a;
}

Tensor depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor* bias, bool flip) {
  STD_TORCH_CHECK(weight.dim() == 4, "weight must be (C, 1, K, K)");
  const int64_t K = weight.size(3);
  DepthwiseConv a = describe(x, K);
  a.weight = float_vector(weight, a.C * K * K, "weight");
  a.flip = flip;
  a.bias = bias ? float_vector(*bias, a.C, "bias") : nullptr;
  const Device device(x);
  Tensor out = new_like(x);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  kernel_of(x).forward(a, static_cast<int>(K), device.multiprocessors(), device.stream());
  return out;
}

std::tuple<Tensor, Tensor> depthwise_conv_backward_weight(const Tensor& grad, const Tensor& x,
                                                          int64_t K) {
  DepthwiseConv a = describe(x, K);
  check_like(grad, x, "grad");
  const Device device(x);
  Tensor dweight = empty_floats({a.C, 1, K, K}, x), dbias = empty_floats({a.C}, x);
  a.grad = strided(grad);
  a.pairs = a.pairs && has_pairs(a.grad, a.C, type_of(grad));
  const int kernel = static_cast<int>(K);
  const WeightTiles s =
      x.numel() ? weight_tiles(a, kernel, device.multiprocessors()) : WeightTiles{};
  Tensor sums = empty_floats({s.chunks, a.C * (K * K + 1)}, x);
  a.sums = static_cast<float*>(sums.mutable_data_ptr());
  if (s.chunks) kernel_of(x).backward_weight(a, kernel, s, device.stream());
  sum_rows(sums, static_cast<float*>(dweight.mutable_data_ptr()), a.C * K * K,
           static_cast<float*>(dbias.mutable_data_ptr()), device.stream());
  return {dweight, dbias};
}

static Tensor forward(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                      bool flip) {
  return depthwise_conv(x, weight, bias ? &*bias : nullptr, flip);
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("depthwise_conv", TORCH_BOX(&forward));
  m.impl("depthwise_conv_backward_weight", TORCH_BOX(&depthwise_conv_backward_weight));
}

}  // namespace moce
