// What the CPU operators share: tensors, and scratch for their threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "memory_pool.h"
#include "moce/tensor.h"

namespace moce {

// Vectors of channels whose weights one thread packs at least.
constexpr int64_t kPackedVectors = 8;

// From here on scratch comes from the memory pool, in sizes that operators share: the C library
// would give it back to the system after each call.
constexpr size_t kPooledScratch = size_t{1} << 16, kLargestShared = size_t{1} << 22;

struct FreeScratch {
  size_t bytes = 0;
  void operator()(float* p) const {
    if (bytes >= kPooledScratch) pool_free(p, bytes);
    else std::free(p);
  }
};
using Scratch = std::unique_ptr<float[], FreeScratch>;

// PyTorch's allocator says it in the same words.
inline void* require_memory(void* p, size_t bytes) {
  STD_TORCH_CHECK(p, "can't allocate memory: you tried to allocate ", bytes, " bytes");
  return p;
}

inline Scratch allocate_scratch(int64_t floats) {
  size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  if (bytes >= kPooledScratch && bytes < kLargestShared) bytes = std::bit_ceil(bytes);
  void* p = bytes >= kPooledScratch ? pool_allocate(bytes) : std::aligned_alloc(64, bytes);
  require_memory(p, bytes);
#if defined(MOCE_EMULATED)
  std::memset(p, 0xff, bytes);  // NaN, for tests to see what is read before it is written
#endif
  return Scratch(static_cast<float*>(p), FreeScratch{bytes});
}

inline float* floats(const Tensor& t) { return static_cast<float*>(t.data_ptr()); }
inline void zero(std::initializer_list<Tensor> gradients) {
  for (const Tensor& t : gradients) std::fill_n(floats(t), t.numel(), 0.f);
}

// new_like, from the memory pool where it is large.
inline Tensor new_output(const Tensor& t, int64_t channels) {
  const int64_t B = t.size(0), C = channels, H = t.size(2), W = t.size(3);
  const size_t bytes = static_cast<size_t>(B * C * H * W) * t.element_size();
  if (bytes < kPoolThreshold) return new_like(t, channels);
  const bool last = t.stride(1) == 1;
  const int64_t size[4] = {B, C, H, W};
  const int64_t stride[4] = {C * H * W, last ? 1 : H * W, last ? W * C : W, last ? C : 1};
  void* block = require_memory(pool_allocate(bytes), bytes);
  return torch::stable::from_blob(block, {size, 4}, {stride, 4}, t.device(), t.scalar_type(),
                                  [=](void* p) { pool_free(p, bytes); });
}
inline Tensor new_output(const Tensor& t) { return new_output(t, t.size(1)); }

}  // namespace moce
