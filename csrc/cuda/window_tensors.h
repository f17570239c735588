// What the operators over windows are given, on the host.
#pragma once

#include <cstdint>

#include "device.h"
#include "window_fft_conv_kernel.h"

namespace moce {

inline Windows windows_of(const Strided& s, int element_size) {
  // Offsets within a window are 32 bits on the device.
  STD_TORCH_CHECK(32 * (s.h + s.w) < int64_t{1} << 31, "the strides are too large: ", s.h, ", ", s.w);
  Windows windows{s.data, s.b, s.c, static_cast<int>(s.h), static_cast<int>(s.w), 0, element_size};
  if (s.c != 1) return windows;
  const auto all = reinterpret_cast<uintptr_t>(s.data) |
                   static_cast<uintptr_t>((s.b | s.h | s.w) * element_size);
  for (int chunk = 16; chunk >= 4 && windows.chunk == 0; chunk /= 2)
    if (all % chunk == 0) windows.chunk = chunk;
  return windows;
}
inline Windows windows_of(const Tensor& t) {
  return windows_of(strided(t), t.scalar_type() == ScalarType::Float ? 4 : 2);
}

inline void check_window(int64_t window) {
  STD_TORCH_CHECK(window == 4 || window == 8 || window == 16 || window == 32,
                  "window must be 4, 8, 16 or 32, not ", window);
}

// The sizes of q, with so many of its channels.
inline void describe_sizes(WindowFftConv& a, const Tensor& q, int64_t channels) {
  a.B = q.size(0);
  a.C = static_cast<int>(narrow(channels));
  a.H = static_cast<int>(narrow(q.size(2)));
  a.W = static_cast<int>(narrow(q.size(3)));
}

inline void describe_windows(WindowFftConv& a, const Tensor& q, const Tensor& k, int64_t window) {
  check_window(window);
  check_like(q, q, "q");
  check_like(k, q, "k");
  describe_sizes(a, q, q.size(1));
  a.channels_last = q.stride(1) == 1;
  a.q = windows_of(q);
  a.k = windows_of(k);
}

inline const WindowFftConvKernel& window_kernel_of(const Tensor& t) {
  return for_type_of(t, window_fft_conv_float, window_fft_conv_bfloat16, window_fft_conv_half);
}

}  // namespace moce
