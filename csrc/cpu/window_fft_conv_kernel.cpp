// Circular convolution of windows for CPUs: out = q (*) k, and its gradients, the circular
// correlations of grad with k and with q.
//
// A strip of windows is transformed, multiplied and transformed back window by window: forward moves
// 3 and backward 5 elements for each output element. Forward, per element: about 15 log2(P) + 3
// float operations; backward, which transforms q and k again, 25 log2(P) + 6.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "window_strip.h"

namespace moce {
inline namespace MOCE_ISA {

template <int P, int W>
struct Convolution {
  using Part = WindowStrip<P, W>;

  static int64_t scratch(const WindowFftConv& a, bool backward) {
    return backward ? Part::backward_scratch(a) : Part::forward_scratch(a);
  }
  static void forward(const WindowFftConv& a, int64_t begin, int64_t end, float* scratch) {
    for (int64_t i = begin; i < end; i++) Part(a, i).forward(scratch);
  }
  static void backward(const WindowFftConv& a, int64_t begin, int64_t end, float* scratch) {
    for (int64_t i = begin; i < end; i++) Part(a, i).backward(scratch);
  }
};

extern const WindowFftConvKernel window_fft_conv_kernel = {
    [](const WindowFftConv& a, bool backward) {
      return dispatch<Convolution>(a, [&](auto k) { return decltype(k)::scratch(a, backward); });
    },
    [](const WindowFftConv& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Convolution>(a, [&](auto k) { decltype(k)::forward(a, begin, end, scratch); });
    },
    [](const WindowFftConv& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Convolution>(a, [&](auto k) { decltype(k)::backward(a, begin, end, scratch); });
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
