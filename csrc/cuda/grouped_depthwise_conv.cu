// The operators moce_kernels::grouped_depthwise_conv and grouped_depthwise_conv_backward_weight on GPUs:
// the depthwise convolutions of a layer of experts, of each slot of a routing plan in as many channels
// as its expert has. Checks, outputs, launches; the arithmetic is in depthwise_conv_device.h.

#include <algorithm>
#include <optional>

#include "grouped_depthwise_conv_kernel.h"
#include "sum_rows.h"

namespace moce {

using Integers = std::vector<int64_t>;

static const GroupedDepthwiseConvKernel& kernel_of(const Tensor& t) {
  return for_type_of(t, grouped_depthwise_conv_float, grouped_depthwise_conv_bfloat16,
                     grouped_depthwise_conv_half);
}

// What both have in common: of x, and of `other`, which is the output or its gradient.
static GroupedDepthwiseConv describe(const Tensor& x, const Tensor& other, const char* name,
                                     const Integers& ranks, int64_t times, int64_t kernel) {
  STD_TORCH_CHECK(kernel == 3 || kernel == 7, "the kernel must be 3 x 3 or 7 x 7");
  STD_TORCH_CHECK(!ranks.empty(), "there must be an expert");
  STD_TORCH_CHECK(times >= 1, "times must be at least 1, not ", times);
  GroupedDepthwiseConv a{};
  int64_t widest = 0;
  for (const int64_t rank : ranks) {
    STD_TORCH_CHECK(rank >= 1, "a rank must be at least 1, not ", rank);
    a.channels.push_back(times * rank);
    a.conv.C += times * rank;
    widest = std::max(widest, times * rank);
  }
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) >= widest, "x must be (slots, at least ", widest,
                  " channels, H, W)");
  STD_TORCH_CHECK(other.dim() == 4 && other.size(1) >= widest && other.size(0) == x.size(0) &&
                      other.size(2) == x.size(2) && other.size(3) == x.size(3) &&
                      other.scalar_type() == x.scalar_type(),
                  name, " must have x's slots, height, width and dtype, and ", widest,
                  " channels");
  DepthwiseConv& c = a.conv;
  c.B = x.size(0);
  c.H = x.size(2);
  c.W = x.size(3);
  c.x = strided(x);
  c.pairs = true;
  for (const int64_t channels : a.channels)
    c.pairs = c.pairs && has_pairs(c.x, channels, type_of(x)) &&
              has_pairs(strided(other), channels, type_of(x));
  return a;
}

static void grouped_depthwise_conv(const Tensor& x, const Tensor& weight,
                                   std::optional<Tensor> bias, const Tensor& index, Integers ranks,
                                   int64_t times, bool flip, Tensor out) {
  STD_TORCH_CHECK(weight.dim() == 3, "weight must be (channels of all experts, K, K)");
  const int64_t K = weight.size(2);
  GroupedDepthwiseConv a = describe(x, out, "out", ranks, times, K);
  DepthwiseConv& c = a.conv;
  c.weight = float_vector(weight, c.C * K * K, "weight");
  c.bias = bias ? float_vector(*bias, c.C, "bias") : nullptr;
  c.flip = flip;
  c.out = strided(out);
  a.index = integer_vector(index, c.B, "index");
  const Device device(x);
  if (x.numel())
    kernel_of(x).forward(a, static_cast<int>(K), device.multiprocessors(), device.stream());
}

// Every expert is cut up as if it had as many of the slots as the others, and of the multiprocessors what
// its channels are of all: then there is a tile for each block that runs at once, all of about the same
// size. Every expert gets as many chunks as the widest needs, for the case that it has more of the slots,
// and since the rows of the sums have places for all.
static std::vector<ExpertTiles<WeightTiles>> tiles_of_experts(const GroupedDepthwiseConv& a,
                                                              int kernel, int multiprocessors) {
  const auto experts = static_cast<int64_t>(a.channels.size());
  std::vector<ExpertTiles<WeightTiles>> launches;
  unsigned chunks = 0;
  int64_t channel = 0;
  for (int64_t e = 0; e < experts; e++) {
    if (e % kExperts == 0) launches.push_back({static_cast<unsigned>(e)});
    ExpertTiles<WeightTiles>& t = launches.back();
    const int64_t channels = a.channels[e];
    DepthwiseConv one = a.conv;
    one.B = tiles_of(a.conv.B, experts);
    one.C = channels;
    WeightTiles& s = t.of[t.count];
    s = weight_tiles(one, kernel, tiles_of(multiprocessors * channels, a.conv.C));
    narrow(a.conv.B * s.down * s.across);
    chunks = std::max(chunks, s.chunks);
    t.channel[t.count++] = narrow(channel);
    channel += channels;
  }
  for (ExpertTiles<WeightTiles>& t : launches)
    for (unsigned e = 0; e < t.count; e++) {
      t.of[e].chunks = chunks;
      t.blocks += t.of[e].blocks();
    }
  return launches;
}

static Tensor grouped_depthwise_conv_backward_weight(
    const Tensor& grad, const Tensor& x, const Tensor& order, const Tensor& offsets,
    Integers ranks, int64_t times, int64_t K) {
  GroupedDepthwiseConv a = describe(x, grad, "grad", ranks, times, K);
  DepthwiseConv& c = a.conv;
  c.grad = strided(grad);
  a.order = integer_vector(order, c.B, "order");
  a.offsets = integer_vector(offsets, static_cast<int64_t>(ranks.size()) + 1, "offsets");
  const Device device(x);
  const int kernel = static_cast<int>(K);
  const int64_t size = c.C * (K * K + 1);
  Tensor total = empty_floats({size}, x);
  std::vector<ExpertTiles<WeightTiles>> launches;
  if (x.numel()) launches = tiles_of_experts(a, kernel, device.multiprocessors());
  Tensor sums = empty_floats({launches.empty() ? 0 : launches[0].of[0].chunks, size}, x);
  c.sums = static_cast<float*>(sums.mutable_data_ptr());
  for (const ExpertTiles<WeightTiles>& t : launches)
    kernel_of(x).backward_weight(a, kernel, t, device.stream());
  sum_rows(sums, static_cast<float*>(total.mutable_data_ptr()), size, nullptr, device.stream());
  return total;
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("grouped_depthwise_conv", TORCH_BOX(&grouped_depthwise_conv));
  m.impl("grouped_depthwise_conv_backward_weight",
         TORCH_BOX(&grouped_depthwise_conv_backward_weight));
}

}  // namespace moce
