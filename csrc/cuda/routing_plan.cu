// The operator moce_kernels::routing_plan on GPUs: top-k, gates, order and offsets of (B, n) logits
// in one kernel of one block. A few numbers for each image: the launch is what it costs.

#include <cmath>
#include <tuple>

#include "device.h"

namespace moce {

constexpr int kThreads = 256;

// True if expert i goes before expert j. NaN ranks first, as in PyTorch's sort.
__device__ inline bool before(float x, int64_t i, float y, int64_t j) {
  const bool nan_x = isnan(x), nan_y = isnan(y);
  if (nan_x || nan_y) return nan_x && (!nan_y || i < j);
  return x > y || (x == y && i < j);
}

__global__ void __launch_bounds__(kThreads)
    routing_plan_kernel(const float* logits, int64_t stride_b, int64_t stride_e, int64_t B,
                        int64_t n, int64_t k, int64_t* index, float* gate, int64_t* order,
                        int64_t* offsets) {
  for (int64_t b = threadIdx.x; b < B; b += kThreads) {
    const auto score = [&](int64_t e) { return logits[b * stride_b + e * stride_e]; };
    float highest = score(0), sum = 0;
    for (int64_t e = 1; e < n; e++) highest = fmaxf(highest, score(e));
    for (int64_t e = 0; e < n; e++) sum += expf(score(e) - highest);
    for (int64_t e = 0; e < n; e++) {
      const float x = score(e);
      int64_t rank = 0;
      for (int64_t other = 0; other < n; other++) rank += before(score(other), other, x, e);
      if (rank >= k) continue;
      index[b * k + rank] = e;
      gate[b * k + rank] = expf(x - highest) / sum;
    }
  }
  __syncthreads();

  // Expert after expert, the slots that chose it in their order: a scan over flags.
  auto* in_warp = reinterpret_cast<int*>(shared_memory());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t done = 0;
  for (int64_t e = 0; e < n; e++) {
    if (threadIdx.x == 0) offsets[e] = done;
    for (int64_t first = 0; first < B * k; first += kThreads) {
      const int64_t slot = first + threadIdx.x;
      const bool chosen = slot < B * k && index[slot] == e;
      const unsigned flags = __ballot_sync(0xffffffffu, chosen);
      if (lane == 0) in_warp[warp] = __popc(flags);
      __syncthreads();
      int64_t at = done + __popc(flags & ((1u << lane) - 1u));
      for (int w = 0; w < kThreads / 32; w++) {
        if (w < warp) at += in_warp[w];
        done += in_warp[w];
      }
      if (chosen) order[at] = slot;
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) offsets[n] = done;
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> routing_plan(const Tensor& logits,
                                                               int64_t top_k) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.scalar_type() == ScalarType::Float,
                  "logits must be float32 (B, n)");
  const int64_t B = logits.size(0), n = logits.size(1);
  STD_TORCH_CHECK(top_k >= 1 && top_k <= n, "top_k must be 1 to ", n, ", not ", top_k);
  const Device device(logits);
  const auto integers = [&](std::initializer_list<int64_t> size) {
    return torch::stable::empty({size.begin(), size.size()}, ScalarType::Long, std::nullopt,
                                logits.device());
  };
  Tensor index = integers({B, top_k}), gate = empty_floats({B, top_k}, logits);
  Tensor order = integers({B * top_k}), offsets = integers({n + 1});
  launch(routing_plan_kernel, 1, kThreads, kThreads / 32 * sizeof(int), device.stream(),
         static_cast<const float*>(logits.const_data_ptr()), logits.stride(0), logits.stride(1), B,
         n, top_k, static_cast<int64_t*>(index.mutable_data_ptr()),
         static_cast<float*>(gate.mutable_data_ptr()),
         static_cast<int64_t*>(order.mutable_data_ptr()),
         static_cast<int64_t*>(offsets.mutable_data_ptr()));
  return {gate, index, order, offsets};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("routing_plan", TORCH_BOX(&routing_plan));
}

}  // namespace moce
