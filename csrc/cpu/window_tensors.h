// What the operators over windows are given, on the host.
#pragma once

#include "tensor.h"
#include "window_fft_conv_kernel.h"

namespace moce {

inline void describe_windows(WindowFftConv& a, const Tensor& q, const Tensor& k, int64_t window) {
  STD_TORCH_CHECK(window == 4 || window == 8 || window == 16 || window == 32,
                  "window must be 4, 8, 16 or 32, not ", window);
  check_like(q, q, "q");
  check_like(k, q, "k");
  a.type = type_of(q);
  a.B = q.size(0);
  a.C = q.size(1);
  a.H = q.size(2);
  a.W = q.size(3);
  a.window = static_cast<int>(window);
  a.q = strided(q);
  a.k = strided(k);
}

}  // namespace moce
