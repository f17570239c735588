// The operators moce_kernels::fft_attention and fft_attention_backward on GPUs: checks, outputs,
// launches. The arithmetic is in fft_attention_kernel.cu.

#include <tuple>

#include "fft_attention_kernel.h"

namespace moce {

static const FftAttentionKernel& kernel_of(const Tensor& t) {
  switch (type_of(t)) {
    case Type::kBFloat16: return fft_attention_bfloat16;
    case Type::kHalf: return fft_attention_half;
    default: return fft_attention_float;
  }
}

static FftAttention describe(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& weight, const Tensor& bias, int64_t window, double eps) {
  STD_TORCH_CHECK(window == 4 || window == 8 || window == 16 || window == 32,
                  "window must be 4, 8, 16 or 32, not ", window);
  check_like(q, q, "q");
  check_like(k, q, "k");
  check_like(v, q, "v");
  FftAttention a{};
  a.B = q.size(0);
  a.C = q.size(1);
  a.H = q.size(2);
  a.W = q.size(3);
  a.eps = static_cast<float>(eps);
  a.channels_last = q.stride(1) == 1;
  a.q = strided(q);
  a.k = strided(k);
  a.v = strided(v);
  a.weight = float_vector(weight, a.C, "weight");
  a.bias = float_vector(bias, a.C, "bias");
  return a;
}

static float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

static Tensor fft_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                            const Tensor& bias, int64_t window, double eps) {
  FftAttention a = describe(q, k, v, weight, bias, window, eps);
  const Device device(q);
  Tensor out = new_like(q);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const Tiling t = tiling(a, static_cast<int>(window), false, device);
  Tensor mixed = empty_floats({t.fused ? 0 : q.numel()}, q);
  a.mixed = floats(mixed);
  const FftAttentionKernel& kernel = kernel_of(q);
  kernel.convolve(a, static_cast<int>(window), t, device.stream());
  if (!t.fused) kernel.normalise(a, t, device.stream());
  return out;
}

// dweight and dbias out of the blocks' sums, (blocks, 2 C): 32 of the 2 C for each block here.
constexpr int kRows = 8;
__global__ void __launch_bounds__(32 * kRows)
    sum_blocks(const float* sums, int64_t blocks, int64_t C, float* dweight, float* dbias) {
  float* of_row = shared_memory();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  for (int64_t first = blockIdx.x * int64_t{32}; first < 2 * C; first += gridDim.x * int64_t{32}) {
    const int64_t i = first + lane;
    float sum = 0;
    if (i < 2 * C)
      for (int64_t b = row; b < blocks; b += kRows) sum += sums[b * 2 * C + i];
    of_row[threadIdx.x] = sum;
    __syncthreads();
    if (row == 0 && i < 2 * C) {
      for (int r = 1; r < kRows; r++) sum += of_row[r * 32 + lane];
      (i < C ? dweight[i] : dbias[i - C]) = sum;
    }
    __syncthreads();
  }
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fft_attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
    const Tensor& bias, int64_t window, double eps) {
  FftAttention a = describe(q, k, v, weight, bias, window, eps);
  check_like(grad, q, "grad");
  const Device device(q);
  Tensor dq = new_like(q), dk = new_like(k), dv = new_like(v);
  Tensor dweight = empty_floats({a.C}, q), dbias = empty_floats({a.C}, q);
  const bool nothing = q.numel() == 0;
  const Tiling t = nothing ? Tiling{} : tiling(a, static_cast<int>(window), true, device);
  const int64_t blocks = nothing ? 0 : blocks_for(t.fused ? t.tiles : pixel_tiles(a), kMaxSums);
  Tensor mixed = empty_floats({t.fused ? 0 : q.numel()}, q);
  Tensor sums = empty_floats({blocks, 2, a.C}, q);
  a.grad = strided(grad);
  a.dq = strided(dq);
  a.dk = strided(dk);
  a.dv = strided(dv);
  a.mixed = floats(mixed);
  a.sums = floats(sums);
  if (!nothing) {
    const FftAttentionKernel& kernel = kernel_of(q);
    if (!t.fused) {
      kernel.convolve(a, static_cast<int>(window), t, device.stream());
      kernel.differentiate(a, t, device.stream());
    }
    kernel.correlate(a, static_cast<int>(window), t, device.stream());
  }
  launch(sum_blocks, blocks_for((2 * a.C + 31) / 32), 32 * kRows, 32 * kRows * sizeof(float),
         device.stream(), floats(sums), blocks, a.C, floats(dweight), floats(dbias));
  return {dq, dk, dv, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("fft_attention", TORCH_BOX(&fft_attention));
  m.impl("fft_attention_backward", TORCH_BOX(&fft_attention_backward));
}

}  // namespace moce
