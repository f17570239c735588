// The operators moce_kernels::fft_attention and fft_attention_backward on CPUs: checks, outputs,
// threads. The arithmetic is in fft_attention_kernel.cpp.

#include "fft_attention_kernel.h"

#include <algorithm>
#include <tuple>

#include "capability.h"
#include "window_tensors.h"

MOCE_DECLARE_KERNEL(FftAttentionKernel, fft_attention)

namespace moce {

// Partial sums for the gradients of weight and bias; a fixed number, so that their order and with
// it the result does not depend on the number of threads.
constexpr int64_t kMaxGroups = 128;

static FftAttention describe(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& weight, const Tensor& bias, int64_t window, double eps) {
  FftAttention a{};
  describe_windows(a, q, k, window);
  check_like(v, q, "v");
  a.eps = static_cast<float>(eps);
  a.v = strided(v);
  a.weight = float_vector(weight, a.C, "weight");
  a.bias = float_vector(bias, a.C, "bias");
  return a;
}

static Tensor fft_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                            const Tensor& bias, int64_t window, double eps) {
  FftAttention a = describe(q, k, v, weight, bias, window, eps);
  Tensor out = new_output(q);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = fft_attention_for_this_cpu();
  torch::stable::parallel_for(0, a.strips(), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a, false)).get());
  });
  return out;
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fft_attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
    const Tensor& bias, int64_t window, double eps) {
  FftAttention a = describe(q, k, v, weight, bias, window, eps);
  check_like(grad, q, "grad");
  Tensor dq = new_output(q), dk = new_output(k), dv = new_output(v);
  Tensor dweight = empty_floats({a.C}, q), dbias = empty_floats({a.C}, q);
  a.groups = q.numel() == 0 ? 0 : std::min(a.strips(), kMaxGroups);
  Tensor sums = empty_floats({a.groups, 2, a.C}, q);
  a.grad = strided(grad);
  a.dq = strided(dq);
  a.dk = strided(dk);
  a.dv = strided(dv);
  a.dnorm = static_cast<float*>(sums.mutable_data_ptr());
  const auto& kernel = fft_attention_for_this_cpu();
  torch::stable::parallel_for(0, a.groups, 1, [&](int64_t begin, int64_t end) {
    kernel.backward(a, begin, end, allocate_scratch(kernel.scratch(a, true)).get());
  });
  auto* dw = static_cast<float*>(dweight.mutable_data_ptr());
  auto* db = static_cast<float*>(dbias.mutable_data_ptr());
  for (int64_t c = 0; c < a.C; c++) {
    double w = 0, b = 0;
    for (int64_t g = 0; g < a.groups; g++) {
      w += a.dnorm[g * 2 * a.C + c];
      b += a.dnorm[(g * 2 + 1) * a.C + c];
    }
    dw[c] = static_cast<float>(w);
    db[c] = static_cast<float>(b);
  }
  return {dq, dk, dv, dweight, dbias};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("fft_attention", TORCH_BOX(&fft_attention));
  m.impl("fft_attention_backward", TORCH_BOX(&fft_attention_backward));
}

}  // namespace moce
