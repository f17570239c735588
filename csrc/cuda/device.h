// What the CUDA operators share: the device and stream of a tensor, launches that are checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <utility>

#include "moce/tensor.h"

// Where the operators are registered; the emulation of a GPU for tests has another place.
#ifndef MOCE_DEVICE_KEY
#define MOCE_DEVICE_KEY CUDA
#endif

namespace moce {

inline void check_cuda(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

// Makes a tensor's device the current one while it lives.
class Device {
 public:
  explicit Device(const Tensor& t) : index_(t.get_device_index()), guard_(index_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  // Bytes of shared memory: what one block may have, and what a multiprocessor has for all.
  int shared_for_block() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  int shared_for_all() const { return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor); }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, which, index_), "cudaDeviceGetAttribute");
    return value;
  }
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Pieces of work are counted in 32 bits, for the sake of divisions on the device.
inline unsigned narrow(int64_t n) {
  STD_TORCH_CHECK(n < int64_t{1} << 30, "the tensors are too large: ", n, " pieces of work");
  return static_cast<unsigned>(n);
}

// How many tiles of this size hold n.
constexpr int64_t tiles_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Blocks of a grid over so many items, each of which takes every blocks-th item in turn.
inline unsigned blocks_for(int64_t items, int64_t most = 1 << 20) {
  return static_cast<unsigned>(std::min(items, most));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared,
            cudaStream_t stream, Arguments&&... arguments) {
  if (shared > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)),
               "shared memory");
#ifdef MOCE_EMULATED
  emulate(blocks, threads, shared, [&] { kernel(arguments...); });
#else
  kernel<<<blocks, threads, shared, stream>>>(std::forward<Arguments>(arguments)...);
#endif
  check_cuda(cudaGetLastError(), "kernel launch");
}

// The table of kernels for a tensor's element type, of those that are compiled for each.
template <class Table>
const Table& for_type_of(const Tensor& t, const Table& of_float, const Table& of_bfloat16,
                         const Table& of_half) {
  switch (type_of(t)) {
    case Type::kBFloat16: return of_bfloat16;
    case Type::kHalf: return of_half;
    default: return of_float;
  }
}
// The name of such a table: name_float, name_bfloat16 or name_half.
#define MOCE_JOIN_NAMES(name, scalar) name##_##scalar
#define MOCE_JOIN(name, scalar) MOCE_JOIN_NAMES(name, scalar)
#define MOCE_FOR_SCALAR(name) MOCE_JOIN(name, MOCE_SCALAR_NAME)

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
// A block's dynamic shared memory.
__device__ inline float* shared_memory() {
#ifdef MOCE_EMULATED
  return emulated_shared();
#else
  extern __shared__ __align__(16) float moce_shared[];
  return moce_shared;
#endif
}

// The sum over the lanes whose numbers differ in the bits from `from` up to `to`, in all of them.
__device__ inline float sum_lanes(float x, int from, int to) {
  for (int bit = from; bit < to; bit *= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  return x;
}
#endif

}  // namespace moce
