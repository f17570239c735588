// The operators moce_kernels::fft_attention and fft_attention_backward on GPUs: checks, outputs,
// launches. The arithmetic is in fft_attention_kernel.cu.

#include <tuple>

#include "attention_tiling.h"
#include "fft_attention_kernel.h"
#include "sum_rows.h"
#include "window_tensors.h"

namespace moce {

static const FftAttentionKernel& kernel_of(const Tensor& t) {
  return for_type_of(t, fft_attention_float, fft_attention_bfloat16, fft_attention_half);
}

static FftAttention describe(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& weight, const Tensor& bias, int64_t window, double eps) {
  FftAttention a{};
  describe_windows(a, q, k, window);
  check_like(v, q, "v");
  STD_TORCH_CHECK(32 * int64_t{a.W} * a.C < int64_t{1} << 31, "the rows are too long: ", a.W, " x ",
                  a.C);
  a.eps = static_cast<float>(eps);
  a.channels = static_cast<float>(a.C);
  a.share = 1.f / a.channels;
  a.v = windows_of(v);
  a.weight = float_vector(weight, a.C, "weight");
  a.bias = float_vector(bias, a.C, "bias");
  return a;
}

static float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// The convolution in memory, in floats.
static Windows mixed_windows(const FftAttention& a, const Tensor& mixed) {
  const int64_t row = int64_t{a.W} * a.C;
  return windows_of(Strided{mixed.mutable_data_ptr(), a.H * row, 1, row, a.C}, sizeof(float));
}

static Tensor fft_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                            const Tensor& bias, int64_t window, double eps) {
  FftAttention a = describe(q, k, v, weight, bias, window, eps);
  const Device device(q);
  Tensor out = new_like(q);
  if (out.numel() == 0) return out;
  a.out = windows_of(out);
  const AttentionTiling t = tiling(a, static_cast<int>(window), false, device);
  const FftAttentionKernel& kernel = kernel_of(q);
  if (t.fused) {
    kernel.attention(a, static_cast<int>(window), t, device.stream());
  } else {
    Tensor mixed = empty_floats({q.numel()}, q);
    Tensor counters = empty_floats({t.tiles / t.groups.divisor}, q);  // of as many bits
    a.mixed = mixed_windows(a, mixed);
    a.counters = static_cast<unsigned*>(counters.mutable_data_ptr());
    check_cuda(cudaMemsetAsync(a.counters, 0, counters.numel() * sizeof(unsigned), device.stream()),
               "cudaMemsetAsync");
    kernel.attention_in_memory(a, static_cast<int>(window), t, device.stream());
  }
  return out;
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
  a.grad = windows_of(grad);
  a.dq = windows_of(dq);
  a.dk = windows_of(dk);
  a.dv = windows_of(dv);
  const AttentionTiling t =
      nothing ? AttentionTiling{} : tiling(a, static_cast<int>(window), true, device);
  const int64_t blocks = nothing ? 0 : blocks_for(t.fused ? t.tiles : pixel_tiles(a), kMaxSums);
  Tensor mixed = empty_floats({t.fused ? 0 : q.numel()}, q);
  Tensor sums = empty_floats({blocks, 2 * a.C}, q);
  a.mixed = mixed_windows(a, mixed);
  a.sums = floats(sums);
  if (!nothing) {
    const FftAttentionKernel& kernel = kernel_of(q);
    if (t.fused) {
      kernel.attention_backward(a, static_cast<int>(window), t, device.stream());
    } else {
      a.out = a.mixed;
      window_kernel_of(q).convolve_to_floats(a, static_cast<int>(window), t, device.stream());
      kernel.differentiate(a, t, device.stream());
      a.grad = a.out;
      window_kernel_of(q).correlate_floats(a, static_cast<int>(window), t, device.stream());
    }
  }
  sum_rows(sums, floats(dweight), a.C, floats(dbias), device.stream());
  return {dq, dk, dv, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("fft_attention", TORCH_BOX(&fft_attention));
  m.impl("fft_attention_backward", TORCH_BOX(&fft_attention_backward));
}

}  // namespace moce
