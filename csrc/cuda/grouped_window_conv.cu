// The operators moce_kernels::grouped_window_conv and grouped_window_conv_backward on GPUs: the window
// convolution of a layer of experts, of each slot of a routing plan with the window and the rank of its
// expert. Checks, outputs, launches; the arithmetic is in window_fft_device.h.

#include <algorithm>
#include <vector>

#include "grouped_window_conv_kernel.h"
#include "window_tensors.h"

namespace moce {

using Integers = std::vector<int64_t>;

static void check_slots(const Tensor& t, const Tensor& like, int64_t channels, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(1) >= channels && t.size(0) == like.size(0) &&
                      t.size(2) == like.size(2) && t.size(3) == like.size(3),
                  name, " must have q's slots, height and width, and ", channels, " channels");
}

// What all experts have in common.
static WindowFftConv describe(const Tensor& q, const Tensor& kv, const Tensor& order,
                              const Tensor& offsets, const Integers& ranks,
                              const Integers& windows) {
  STD_TORCH_CHECK(!ranks.empty() && ranks.size() == windows.size(),
                  "there must be a rank and a window for each expert");
  for (size_t e = 0; e < ranks.size(); e++) {
    STD_TORCH_CHECK(ranks[e] >= 1, "a rank must be at least 1, not ", ranks[e]);
    check_window(windows[e]);
  }
  STD_TORCH_CHECK(q.scalar_type() == kv.scalar_type(), "kv must have q's dtype");
  const int64_t rank = *std::max_element(ranks.begin(), ranks.end());
  check_slots(q, q, rank, "q");
  check_slots(kv, q, rank, "kv");
  WindowFftConv a{};
  describe_sizes(a, q, rank);
  a.channels_last = q.stride(1) == 1;
  a.q = windows_of(q);
  a.k = windows_of(kv);
  return a;
}

// Calls launch(arguments, experts) for as many experts at a time as a launch takes.
template <class Launch>
static void for_experts(WindowFftConv a, const Tensor& order, const Tensor& offsets,
                        const Integers& ranks, const Integers& windows, Launch&& launch) {
  if (a.B == 0 || a.H == 0 || a.W == 0) return;
  Experts experts{};
  experts.order = integer_vector(order, a.B, "order");
  experts.offsets = integer_vector(offsets, static_cast<int64_t>(ranks.size()) + 1, "offsets");
  for (size_t first = 0; first < ranks.size(); first += kMostExperts) {
    experts.count = static_cast<int>(std::min<size_t>(kMostExperts, ranks.size() - first));
    for (int e = 0; e < experts.count; e++) {
      a.C = static_cast<int>(ranks[first + e]);
      const int P = static_cast<int>(windows[first + e]);
      experts.of[e] = {P, window_tiling(a, P)};
    }
    launch(a, experts);
    experts.offsets += experts.count;
  }
}

static const GroupedWindowConvKernel& kernel_of(const Tensor& t) {
  return for_type_of(t, grouped_window_conv_float, grouped_window_conv_bfloat16,
                     grouped_window_conv_half);
}

static Tensor grouped_window_conv(const Tensor& q, const Tensor& kv, const Tensor& order,
                                  const Tensor& offsets, Integers ranks, Integers windows) {
  WindowFftConv a = describe(q, kv, order, offsets, ranks, windows);
  const Device device(q);
  const int64_t size[4] = {a.B, *std::max_element(ranks.begin(), ranks.end()), a.H, a.W};
  Tensor mixed = torch::stable::empty({size, 4}, ScalarType::Float, std::nullopt, q.device(),
                                      std::nullopt, MemoryFormat::ChannelsLast);
  a.out = windows_of(mixed);
  for_experts(a, order, offsets, ranks, windows, [&](const auto& all, const Experts& experts) {
    kernel_of(q).convolve(all, experts, device.stream());
  });
  return mixed;
}

static void grouped_window_conv_backward(const Tensor& d, const Tensor& q, const Tensor& kv,
                                         const Tensor& order, const Tensor& offsets,
                                         Integers ranks, Integers windows, Tensor dq, Tensor dkv) {
  WindowFftConv a = describe(q, kv, order, offsets, ranks, windows);
  const int64_t rank = *std::max_element(ranks.begin(), ranks.end());
  check_slots(d, q, rank, "d");
  check_slots(dq, q, rank, "dq");
  check_slots(dkv, q, rank, "dkv");
  STD_TORCH_CHECK(d.scalar_type() == ScalarType::Float, "d must be float32");
  STD_TORCH_CHECK(dq.scalar_type() == q.scalar_type() && dkv.scalar_type() == q.scalar_type(),
                  "dq and dkv must have q's dtype");
  const Device device(q);
  a.grad = windows_of(d);
  a.dq = windows_of(dq);
  a.dk = windows_of(dkv);
  for_experts(a, order, offsets, ranks, windows, [&](const auto& all, const Experts& experts) {
    kernel_of(q).correlate(all, experts, device.stream());
  });
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("grouped_window_conv", TORCH_BOX(&grouped_window_conv));
  m.impl("grouped_window_conv_backward", TORCH_BOX(&grouped_window_conv_backward));
}

}  // namespace moce
