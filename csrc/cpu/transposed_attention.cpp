// The operators moce_kernels::transposed_attention and transposed_attention_backward on CPUs: checks,
// outputs, threads. The arithmetic is in transposed_attention_kernel.cpp and, of the second pass, in
// channel_attention_kernel.cpp.

#include "transposed_attention_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "channel_attention.h"
#include "gradient_groups.h"

MOCE_DECLARE_KERNEL(TransposedAttentionKernel, transposed_attention)

namespace moce {

// Rows whose sums one task makes, unless that makes too many parts.
constexpr int64_t kPartRows = 2, kMostParts = 64;

static TransposedAttention describe(const Tensor& x, const Tensor& qkv,
                                    std::optional<Tensor> qkv_bias, const Tensor& depthwise,
                                    std::optional<Tensor> depthwise_bias, const Tensor& temperature,
                                    const Tensor& weight, bool norm, double eps) {
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
  return first;
}

// The second pass, with as many parts of the first.
static ChannelAttention second_pass(TransposedAttention& first, const Tensor& temperature,
                                    const Tensor& weight, int64_t part_rows) {
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
  // The same for an image whatever else is in the batch.
  first.num_parts = a.num_parts = std::clamp<int64_t>(
      transposed_attention_for_this_cpu().rows(first) / part_rows, 1, kMostParts);
  return a;
}

static Scratch pack(TransposedAttention& first) {
  const auto& kernel = transposed_attention_for_this_cpu();
  Scratch packed = allocate_scratch(kernel.packed_size(first));
  first.packed = packed.get();
  torch::stable::parallel_for(0, kernel.vectors(first), kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.pack(first, begin, end); });
  return packed;
}

// The first pass, whose stage fills the parts.
template <class Stage>
static void collect(TransposedAttention& first, const ChannelAttention& a, Stage&& stage) {
  first.parts = a.parts;
  torch::stable::parallel_for(0, a.B * a.num_parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t size = transposed_attention_for_this_cpu().scratch(first);
    stage(first, begin, end, allocate_scratch(size).get());
  });
}

static std::tuple<Tensor, Tensor, Tensor> transposed_attention(
    const Tensor& x, const Tensor& qkv, std::optional<Tensor> qkv_bias, const Tensor& depthwise,
    std::optional<Tensor> depthwise_bias, const Tensor& temperature, const Tensor& weight,
    std::optional<Tensor> bias, std::optional<Tensor> residual, bool norm, double eps) {
  TransposedAttention first =
      describe(x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, weight, norm, eps);
  const int64_t c = first.C / first.heads, outer = weight.size(0);
  Tensor out = new_output(x, outer), gram = empty_floats({first.B, first.heads, c, c}, x);
  Tensor squares = empty_floats({first.B, 2, first.C}, x);
  if (out.numel() == 0) {
    zero({gram, squares});
    return {out, gram, squares};
  }
  ChannelAttention a = second_pass(first, temperature, weight, kPartRows);
  a.bias = bias ? float_vector(*bias, a.outer, "bias") : nullptr;
  a.gram = floats(gram);
  a.squares = floats(squares);
  a.out = strided(out);
  if (residual) {
    check_like(*residual, out, "residual");
    a.residual = strided(*residual);
  }
  const Tensor v = a.outer == a.C ? out : new_output(x, a.C);
  first.v = a.v = strided(v);
  flatten(a);
  const Scratch packed = pack(first);
  attend(a, [&] { collect(first, a, transposed_attention_for_this_cpu().collect); });
  return {out, gram, squares};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
static Gradients transposed_attention_backward(
    const Tensor& grad, const Tensor& x, const Tensor& qkv, std::optional<Tensor> qkv_bias,
    const Tensor& depthwise, std::optional<Tensor> depthwise_bias, const Tensor& temperature,
    const Tensor& weight, const Tensor& gram, const Tensor& squares, bool norm, double eps,
    bool add_grad) {
  TransposedAttention first =
      describe(x, qkv, qkv_bias, depthwise, depthwise_bias, temperature, weight, norm, eps);
  const int64_t c = first.C / first.heads, outer = weight.size(0), N = 3 * first.C;
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.size(0) == first.B && grad.size(1) == outer &&
                      grad.size(2) == first.H && grad.size(3) == first.W,
                  "grad must have the output's shape and x's dtype");
  STD_TORCH_CHECK(!add_grad || outer == first.inner, "grad must have x's channels to be added");
  Tensor dx = new_output(x), dqkv = empty_floats({N, first.inner}, x);
  Tensor dqkv_bias = empty_floats({N}, x), ddepthwise = empty_floats({N, 1, 3, 3}, x);
  Tensor ddepthwise_bias = empty_floats({N}, x), dtemperature = empty_floats({first.heads}, x);
  Tensor dweight = empty_floats({outer, first.C}, x), dbias = empty_floats({outer}, x);
  if (x.numel() == 0 || grad.numel() == 0) {
    zero({dqkv, dqkv_bias, ddepthwise, ddepthwise_bias, dtemperature, dweight, dbias});
  } else {
    ChannelAttention a = second_pass(first, temperature, weight, kGroupRows);
    a.gram = const_cast<float*>(float_vector(gram, a.B * a.heads * c * c, "gram"));
    a.squares = const_cast<float*>(float_vector(squares, a.B * 2 * a.C, "squares"));
    a.dtemperature = floats(dtemperature);
    a.dweight = floats(dweight);
    a.dbias = floats(dbias);
    first.attention = &a;
    first.grad = strided(grad);
    first.add_grad = add_grad;
    first.gradient.dx = strided(dx);
    first.gradient.weight = floats(dqkv);
    first.gradient.bias = floats(dqkv_bias);
    first.gradient.depthwise = floats(ddepthwise);
    first.gradient.depthwise_bias = floats(ddepthwise_bias);
    const auto& kernel = transposed_attention_for_this_cpu();
    const Scratch packed = pack(first), values = allocate_scratch(kernel.values_size(first));
    first.packed_values = values.get();
    kernel.pack_values(first);
    attend_backward(
        a, [&] { collect(first, a, kernel.collect_values); },
        [&] { compute_gradients(first, kernel.gradient); });
  }
  return {dx, dqkv, dqkv_bias, ddepthwise, ddepthwise_bias, dtemperature, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("transposed_attention", TORCH_BOX(&transposed_attention));
  m.impl("transposed_attention_backward", TORCH_BOX(&transposed_attention_backward));
}

}  // namespace moce
