// As much of CUDA as csrc/cuda uses, on a CPU: a block's threads take turns, each until it comes to a
// barrier, and each warp until it comes to one of more threads than its own. Every second block has its
// threads in reverse order, so that a barrier that is missing shows in the results; shared memory begins
// as NaN. What a GPU would not launch, or an address that is not aligned, ends the program.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>

#define MOCE_EMULATED
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

using std::isnan;

struct Index3 {
  unsigned x, y, z;
};
extern Index3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

void __syncthreads();
void __syncwarp();
// Named barriers, each of a run of `count` threads; the runs divide the block.
void __barrier_sync_count(unsigned barrier, unsigned count);
float __shfl_xor_sync(unsigned mask, float value, int bit);
unsigned __ballot_sync(unsigned mask, bool flag);
// Ends the program if an instruction of so many bytes would not take the address. Other addresses the
// compiler's sanitizer checks.
void emulated_aligned(const void* p, size_t bytes);
// What each lane of a warp gives, `bytes` of it, in the order of the lanes: for matrix products.
void emulated_gather(const void* mine, size_t bytes, void* all);
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
// Blocks run one after the other.
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* p, unsigned value) { return (*p += value) - value; }

void emulate(unsigned blocks, unsigned threads, size_t shared_bytes,
             const std::function<void()>& kernel);
float* emulated_shared();

typedef struct EmulatedStream* cudaStream_t;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
// Two multiprocessors, so that small inputs are cut up too. Shared memory: the environment's
// MOCE_EMULATED_SHARED, in bytes; by default as much as an H100 has.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
