// What the CPU operators share: tensors, and scratch for their threads.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

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

}  // namespace moce
