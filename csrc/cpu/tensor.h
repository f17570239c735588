// What the CPU operators share: tensors, and scratch for their threads.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "moce/tensor.h"

namespace moce {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<float[], Free>;

inline Scratch allocate_scratch(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  return Scratch(static_cast<float*>(p));
}

// An output like t with so many channels. A large one is fresh from the system, which would hand it
// over in pages of 4 KiB, at several times the cost of writing them: large pages are asked for.
inline Tensor new_output(const Tensor& t, int64_t channels) {
  Tensor out = new_like(t, channels);
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kLarge = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(out.data_ptr());
  const uintptr_t first = (begin + kLarge - 1) / kLarge * kLarge;
  const uintptr_t end = (begin + out.numel() * out.element_size()) / kLarge * kLarge;
  // Advice: where there are no large pages, nothing changes.
  if (end >= first + 8 * kLarge)
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
  return out;
}
inline Tensor new_output(const Tensor& t) { return new_output(t, t.size(1)); }

}  // namespace moce
