// The operator moce_kernels::routing_plan on CPUs: top-k, gates, order and offsets in one pass over
// (B, n) logits. A few numbers for each image: neither threads nor vectors would help.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "tensor.h"

namespace moce {

static std::tuple<Tensor, Tensor, Tensor, Tensor> routing_plan(const Tensor& logits,
                                                               int64_t top_k) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.scalar_type() == ScalarType::Float,
                  "logits must be float32 (B, n)");
  const int64_t B = logits.size(0), n = logits.size(1);
  STD_TORCH_CHECK(top_k >= 1 && top_k <= n, "top_k must be 1 to ", n, ", not ", top_k);
  const auto integers = [&](std::initializer_list<int64_t> size) {
    return torch::stable::empty({size.begin(), size.size()}, ScalarType::Long, std::nullopt,
                                logits.device());
  };
  Tensor index = integers({B, top_k}), gate = empty_floats({B, top_k}, logits);
  Tensor order = integers({B * top_k}), offsets = integers({n + 1});
  const auto* scores = static_cast<const float*>(logits.const_data_ptr());
  auto* chosen = static_cast<int64_t*>(index.mutable_data_ptr());
  auto* gates = static_cast<float*>(gate.mutable_data_ptr());
  auto* slots = static_cast<int64_t*>(order.mutable_data_ptr());
  auto* begin = static_cast<int64_t*>(offsets.mutable_data_ptr());

  std::vector<float> row(n);
  std::vector<int64_t> ranking(n);
  std::fill(begin, begin + n + 1, 0);
  for (int64_t b = 0; b < B; b++) {
    for (int64_t i = 0; i < n; i++) row[i] = scores[b * logits.stride(0) + i * logits.stride(1)];
    std::iota(ranking.begin(), ranking.end(), 0);
    // NaN ranks first, as in PyTorch's sort: comparisons with it must still be an order.
    std::stable_sort(ranking.begin(), ranking.end(), [&](int64_t i, int64_t j) {
      return row[i] > row[j] || (std::isnan(row[i]) && !std::isnan(row[j]));
    });
    const float highest = row[ranking[0]];
    float sum = 0;
    for (float& x : row) sum += x = std::exp(x - highest);
    for (int64_t j = 0; j < top_k; j++) {
      chosen[b * top_k + j] = ranking[j];
      gates[b * top_k + j] = row[ranking[j]] / sum;
      begin[ranking[j] + 1]++;
    }
  }
  std::partial_sum(begin, begin + n + 1, begin);
  std::vector<int64_t> next(begin, begin + n);
  for (int64_t s = 0; s < B * top_k; s++) slots[next[chosen[s]]++] = s;
  return {gate, index, order, offsets};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("routing_plan", TORCH_BOX(&routing_plan));
}

}  // namespace moce
