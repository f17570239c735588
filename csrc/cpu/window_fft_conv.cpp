// The operators moce_kernels::window_fft_conv and window_fft_conv_backward on CPUs: checks, outputs,
// threads. The arithmetic is in window_fft_conv_kernel.cpp.

#include <tuple>

#include "capability.h"
#include "window_tensors.h"

MOCE_DECLARE_KERNEL(WindowFftConvKernel, window_fft_conv)

namespace moce {

static Tensor window_fft_conv(const Tensor& q, const Tensor& k, int64_t window) {
  WindowFftConv a{};
  describe_windows(a, q, k, window);
  Tensor out = new_like(q);
  if (out.numel() == 0) return out;
  a.out = strided(out);
  const auto& kernel = window_fft_conv_for_this_cpu();
  torch::stable::parallel_for(0, a.strips(), 1, [&](int64_t begin, int64_t end) {
    kernel.forward(a, begin, end, allocate_scratch(kernel.scratch(a, false)).get());
  });
  return out;
}

static std::tuple<Tensor, Tensor> window_fft_conv_backward(const Tensor& grad, const Tensor& q,
                                                           const Tensor& k, int64_t window) {
  WindowFftConv a{};
  describe_windows(a, q, k, window);
  check_like(grad, q, "grad");
  Tensor dq = new_like(q), dk = new_like(k);
  if (q.numel() == 0) return {dq, dk};
  a.grad = strided(grad);
  a.dq = strided(dq);
  a.dk = strided(dk);
  const auto& kernel = window_fft_conv_for_this_cpu();
  torch::stable::parallel_for(0, a.strips(), 1, [&](int64_t begin, int64_t end) {
    kernel.backward(a, begin, end, allocate_scratch(kernel.scratch(a, true)).get());
  });
  return {dq, dk};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("window_fft_conv", TORCH_BOX(&window_fft_conv));
  m.impl("window_fft_conv_backward", TORCH_BOX(&window_fft_conv_backward));
}

}  // namespace moce
