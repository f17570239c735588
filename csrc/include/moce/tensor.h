// Tensors through the stable ABI: checks, descriptions, outputs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "moce/types.h"

namespace moce {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Type::kFloat;
    case ScalarType::BFloat16: return Type::kBFloat16;
    case ScalarType::Half: return Type::kHalf;
    default: STD_TORCH_CHECK(false, "expected float32, bfloat16 or float16");
  }
}

inline Strided strided(const Tensor& t) {
  return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

inline void check_like(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == like.scalar_type(), name,
                  " must have the first tensor's number of dimensions and dtype");
  for (int i = 0; i < 4; i++)
    STD_TORCH_CHECK(t.size(i) == like.size(i), name, " must have the first tensor's shape");
}

inline const float* float_vector(const Tensor& t, int64_t n, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous() && t.numel() == n, name,
                  " must be contiguous float32 with ", n, " elements");
  return static_cast<const float*>(t.const_data_ptr());
}

inline const int64_t* integer_vector(const Tensor& t, int64_t n, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long && t.is_contiguous() && t.numel() == n, name,
                  " must be contiguous int64 with ", n, " elements");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

// Uninitialised, of t's dtype, and of t's shape but for the channels; channels-last exactly where
// t's channels are adjacent.
inline Tensor new_like(const Tensor& t, int64_t channels) {
  const int64_t size[4] = {t.size(0), channels, t.size(2), t.size(3)};
  return torch::stable::empty(
      {size, 4}, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
      t.stride(1) == 1 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}
inline Tensor new_like(const Tensor& t) { return new_like(t, t.size(1)); }
inline Tensor empty_floats(std::initializer_list<int64_t> size, const Tensor& like) {
  return torch::stable::empty({size.begin(), size.size()}, ScalarType::Float, std::nullopt,
                              like.device());
}

}  // namespace moce
