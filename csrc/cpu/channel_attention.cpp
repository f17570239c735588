// The operators moce_kernels::channel_attention and channel_attention_backward on CPUs: checks,
// outputs, threads. The arithmetic is in channel_attention_kernel.cpp.

#include "channel_attention.h"

#include <algorithm>
#include <optional>
#include <tuple>

namespace moce {

// Pixels whose sums one task makes, unless that makes too many parts.
constexpr int64_t kPartPixels = 1024, kMostParts = 1024;

// `count` times C channels of a tensor, from channel `first` * C on.
static Strided channels(const Tensor& t, int64_t first, int64_t C) {
  Strided s = strided(t);
  const int64_t size = type_of(t) == Type::kFloat ? 4 : 2;
  s.data = static_cast<char*>(s.data) + first * C * s.c * size;
  return s;
}

static ChannelAttention describe(const Tensor& query, const std::optional<Tensor>& key_value,
                                 const Tensor& temperature, const Tensor& weight) {
  check_like(query, query, "query");
  const int64_t shared = key_value ? 1 : 3;
  STD_TORCH_CHECK(query.size(1) % shared == 0, "query must hold q, k and v");
  ChannelAttention a{};
  a.type = type_of(query);
  a.B = query.size(0);
  a.C = query.size(1) / shared;
  a.H = query.size(2);
  a.W = query.size(3);
  a.heads = temperature.numel();
  STD_TORCH_CHECK(a.heads > 0 && a.C % a.heads == 0, "heads must divide the channels");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == a.C, "weight must be (N, C)");
  a.outer = weight.size(0);
  a.temperature = float_vector(temperature, a.heads, "temperature");
  a.weight = float_vector(weight, a.outer * a.C, "weight");
  a.q = channels(query, 0, a.C);
  if (key_value) {
    STD_TORCH_CHECK(key_value->dim() == 4 && key_value->scalar_type() == query.scalar_type() &&
                        key_value->size(0) == a.B && key_value->size(1) == 2 * a.C &&
                        key_value->size(2) == a.H && key_value->size(3) == a.W,
                    "key_value must be (B, 2C, H, W) of query's dtype");
    a.k = channels(*key_value, 0, a.C);
    a.v = channels(*key_value, 1, a.C);
  } else {
    a.k = channels(query, 1, a.C);
    a.v = channels(query, 2, a.C);
  }
  // The same for an image whatever else is in the batch.
  a.num_parts = std::min((a.H * a.W + kPartPixels - 1) / kPartPixels, kMostParts);
  return a;
}

static std::tuple<Tensor, Tensor, Tensor> channel_attention(
    const Tensor& query, std::optional<Tensor> key_value, const Tensor& temperature,
    const Tensor& weight, std::optional<Tensor> bias, std::optional<Tensor> residual) {
  ChannelAttention a = describe(query, key_value, temperature, weight);
  a.bias = bias ? float_vector(*bias, a.outer, "bias") : nullptr;
  const int64_t c = a.C / a.heads;
  Tensor out = new_output(query, a.outer), gram = empty_floats({a.B, a.heads, c, c}, query);
  Tensor squares = empty_floats({a.B, 2, a.C}, query);
  if (out.numel() == 0) {
    zero({gram, squares});
    return {out, gram, squares};
  }
  a.gram = floats(gram);
  a.squares = floats(squares);
  a.out = strided(out);
  if (residual) {
    check_like(*residual, out, "residual");
    a.residual = strided(*residual);
  }
  flatten(a);
  const auto& kernel = channel_attention_for_this_cpu();
  attend(a, [&] { run_stage(a, kernel.collect, a.B * a.num_parts); });
  return {out, gram, squares};
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> channel_attention_backward(
    const Tensor& grad, const Tensor& query, std::optional<Tensor> key_value, const Tensor& gram,
    const Tensor& squares, const Tensor& temperature, const Tensor& weight) {
  ChannelAttention a = describe(query, key_value, temperature, weight);
  const int64_t c = a.C / a.heads;
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == query.scalar_type() &&
                      grad.size(0) == a.B && grad.size(1) == a.outer && grad.size(2) == a.H &&
                      grad.size(3) == a.W,
                  "grad must have the output's shape and query's dtype");
  a.gram = const_cast<float*>(float_vector(gram, a.B * a.heads * c * c, "gram"));
  a.squares = const_cast<float*>(float_vector(squares, a.B * 2 * a.C, "squares"));
  Tensor dquery = new_output(query);
  Tensor dkey_value = key_value ? new_output(*key_value) : empty_floats({0}, query);
  Tensor dtemperature = empty_floats({a.heads}, query);
  Tensor dweight = empty_floats({a.outer, a.C}, query), dbias = empty_floats({a.outer}, query);
  if (grad.numel() == 0) {
    zero({dtemperature, dweight, dbias});
    return {dquery, dkey_value, dtemperature, dweight, dbias};
  }
  a.dtemperature = floats(dtemperature);
  a.dweight = floats(dweight);
  a.dbias = floats(dbias);
  a.grad = strided(grad);
  a.dq = channels(dquery, 0, a.C);
  a.dk = key_value ? channels(dkey_value, 0, a.C) : channels(dquery, 1, a.C);
  a.dv = key_value ? channels(dkey_value, 1, a.C) : channels(dquery, 2, a.C);
  flatten(a);
  const auto& kernel = channel_attention_for_this_cpu();
  attend_backward(
      a, [&] { run_stage(a, kernel.backward_collect, a.B * a.num_parts); },
      [&] { run_stage(a, kernel.backward_apply, kernel.blocks(a)); });
  return {dquery, dkey_value, dtemperature, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("channel_attention", TORCH_BOX(&channel_attention));
  m.impl("channel_attention_backward", TORCH_BOX(&channel_attention_backward));
}

}  // namespace moce
