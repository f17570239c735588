// The operator moce_kernels::transposed_attention on CPUs: checks, outputs, threads. The arithmetic
// is in transposed_attention_kernel.cpp and, of the second pass, in channel_attention_kernel.cpp.

#include "transposed_attention_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "channel_attention.h"

MOCE_DECLARE_KERNEL(TransposedAttentionKernel, transposed_attention)

namespace moce {

// Rows whose sums one task makes, unless that makes too many parts.
constexpr int64_t kPartRows = 2, kMostParts = 64;

static std::tuple<Tensor, Tensor, Tensor> transposed_attention(
    const Tensor& x, const Tensor& qkv, std::optional<Tensor> qkv_bias, const Tensor& depthwise,
    std::optional<Tensor> depthwise_bias, const Tensor& temperature, const Tensor& weight,
    std::optional<Tensor> bias, std::optional<Tensor> residual, bool norm, double eps) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(weight.dim() == 2, "weight must be (N, C)");
  TransposedAttention first{};
  first.type = type_of(x);
  first.B = x.size(0);
  first.inner = x.size(1);
  first.H = x.size(2);
  first.W = x.size(3);
  first.C = weight.size(1);
  first.heads = temperature.numel();
  STD_TORCH_CHECK(first.heads > 0 && first.C % first.heads == 0, "heads must divide the channels");
  first.norm = norm;
  first.eps = static_cast<float>(eps);
  first.x = strided(x);
  first.weight = float_vector(qkv, 3 * first.C * first.inner, "qkv");
  first.bias = qkv_bias ? float_vector(*qkv_bias, 3 * first.C, "qkv_bias") : nullptr;
  first.depthwise = float_vector(depthwise, 3 * first.C * 9, "depthwise");
  first.depthwise_bias =
      depthwise_bias ? float_vector(*depthwise_bias, 3 * first.C, "depthwise_bias") : nullptr;

  ChannelAttention a{};
  a.type = first.type;
  a.B = first.B;
  a.H = first.H;
  a.W = first.W;
  a.C = first.C;
  a.heads = first.heads;
  a.outer = weight.size(0);
  a.temperature = float_vector(temperature, a.heads, "temperature");
  a.weight = float_vector(weight, a.outer * a.C, "weight");
  a.bias = bias ? float_vector(*bias, a.outer, "bias") : nullptr;
  const int64_t c = a.C / a.heads;
  Tensor out = new_output(x, a.outer), gram = empty_floats({a.B, a.heads, c, c}, x);
  Tensor squares = empty_floats({a.B, 2, a.C}, x);
  a.gram = static_cast<float*>(gram.mutable_data_ptr());
  a.squares = static_cast<float*>(squares.mutable_data_ptr());
  if (out.numel() == 0) {
    std::fill_n(a.gram, gram.numel(), 0.f);
    std::fill_n(a.squares, squares.numel(), 0.f);
    return {out, gram, squares};
  }
  a.out = strided(out);
  if (residual) {
    check_like(*residual, out, "residual");
    a.residual = strided(*residual);
  }
  const Tensor v = a.outer == a.C ? out : new_output(x, a.C);
  first.v = a.v = strided(v);
  const auto& kernel = transposed_attention_for_this_cpu();
  // The same for an image whatever else is in the batch.
  first.num_parts = a.num_parts =
      std::clamp<int64_t>(kernel.rows(first) / kPartRows, 1, kMostParts);
  flatten(a);
  const Scratch packed = allocate_scratch(kernel.packed_size(first));
  first.packed = packed.get();
  torch::stable::parallel_for(0, kernel.vectors(first), kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.pack(first, begin, end); });
  attend(a, [&] {
    first.parts = a.parts;
    torch::stable::parallel_for(0, a.B * a.num_parts, 1, [&](int64_t begin, int64_t end) {
      kernel.collect(first, begin, end, allocate_scratch(kernel.scratch(first)).get());
    });
  });
  return {out, gram, squares};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("transposed_attention", TORCH_BOX(&transposed_attention));
}

}  // namespace moce
