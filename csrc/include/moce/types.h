// Plain descriptions of tensors, for kernels that know nothing of PyTorch.
#pragma once

#include <cstdint>

namespace moce {

enum class Type { kFloat, kBFloat16, kHalf };

// A (B, C, H, W) tensor: where it lies and its strides in elements.
struct Strided {
  void* data;
  int64_t b, c, h, w;
};

}  // namespace moce
