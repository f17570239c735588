// The operators moce_kernels::window_fft_conv and window_fft_conv_backward on GPUs: checks, outputs,
// launches. The arithmetic is in window_fft_device.h.

#include <tuple>

#include "window_tensors.h"
#include "window_tiling.h"

namespace moce {

static Tensor window_fft_conv(const Tensor& q, const Tensor& k, int64_t window) {
  WindowFftConv a{};
  describe_windows(a, q, k, window);
  const Device device(q);
  Tensor out = new_like(q);
  if (out.numel() == 0) return out;
  a.out = windows_of(out);
  const int P = static_cast<int>(window);
  window_kernel_of(q).convolve(a, P, window_tiling(a, P), device.stream());
  return out;
}

static std::tuple<Tensor, Tensor> window_fft_conv_backward(const Tensor& grad, const Tensor& q,
                                                           const Tensor& k, int64_t window) {
  WindowFftConv a{};
  describe_windows(a, q, k, window);
  check_like(grad, q, "grad");
  const Device device(q);
  Tensor dq = new_like(q), dk = new_like(k);
  if (q.numel() == 0) return {dq, dk};
  a.grad = windows_of(grad);
  a.dq = windows_of(dq);
  a.dk = windows_of(dk);
  const int P = static_cast<int>(window);
  window_kernel_of(q).correlate(a, P, window_tiling(a, P), device.stream());
  return {dq, dk};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("window_fft_conv", TORCH_BOX(&window_fft_conv));
  m.impl("window_fft_conv_backward", TORCH_BOX(&window_fft_conv_backward));
}

}  // namespace moce
