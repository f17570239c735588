// What the operators over windows are given, on the host.
#pragma once

#include "window_fft_conv_kernel.h"

namespace moce {

// Offsets within a window are 32 bits on the device.
inline Strided strided_windows(const Tensor& t) {
  const Strided s = strided(t);
  STD_TORCH_CHECK(32 * (s.h + s.w) < int64_t{1} << 31, "the strides are too large: ", s.h, ", ", s.w);
  return s;
}

inline void describe_windows(WindowFftConv& a, const Tensor& q, const Tensor& k, int64_t window) {
  STD_TORCH_CHECK(window == 4 || window == 8 || window == 16 || window == 32,
                  "window must be 4, 8, 16 or 32, not ", window);
  check_like(q, q, "q");
  check_like(k, q, "k");
  a.B = q.size(0);
  a.C = q.size(1);
  a.H = q.size(2);
  a.W = q.size(3);
  a.channels_last = q.stride(1) == 1;
  a.q = strided_windows(q);
  a.k = strided_windows(k);
}

}  // namespace moce
