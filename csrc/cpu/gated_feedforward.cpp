// The operator moce_kernels::gated_feedforward on CPUs: checks, output, threads. The arithmetic is
// in gated_feedforward_kernel.cpp.

#include "gated_feedforward_kernel.h"

#include <optional>

#include "capability.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(GatedFeedForwardKernel, gated_feedforward)

namespace moce {

static Tensor gated_feedforward(const Tensor& x, const Tensor& in, std::optional<Tensor> in_bias,
                                const Tensor& depthwise, std::optional<Tensor> depthwise_bias,
                                const Tensor& out_weight, std::optional<Tensor> out_bias, bool norm,
                                double eps) {
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
  a.out_bias = out_bias ? float_vector(*out_bias, a.C, "out_bias") : nullptr;
  Tensor out = new_output(x);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = gated_feedforward_for_this_cpu();
  const Scratch packed = allocate_scratch(kernel.packed_size(a));
  a.packed = packed.get();
  torch::stable::parallel_for(0, kernel.vectors(a), kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.pack(a, begin, end); });
  torch::stable::parallel_for(0, kernel.rows(a), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("gated_feedforward", TORCH_BOX(&gated_feedforward));
}

}  // namespace moce
