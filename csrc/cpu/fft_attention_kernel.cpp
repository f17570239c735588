// Window FFT attention for CPUs: out = LayerNorm_C(q (*) k) * v and its gradients.
//
// Spectra, convolution and normalisation of a strip of windows stay in scratch (for each thread twice
// 32*P*C floats forward and five times that backward, C up to whole vectors); q, k, v are read once and
// the results written once, so the forward pass moves 4 and the backward pass 7 elements for each
// output element. The backward pass recomputes the convolution. Per element: about 15 log2(P) + 11
// float operations forward, 30 log2(P) + 24 backward.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "fft_attention_strip.h"

namespace moce {
inline namespace MOCE_ISA {

template <int P, int W, class T>
struct Attention {
  using Part = AttentionStrip<P, W, T>;

  static int64_t scratch(const FftAttention& a, bool backward) {
    return backward ? Part::backward_scratch(a) : Part::forward_scratch(a);
  }
  static void forward(const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
    Part::pad_norm(a, scratch);
    for (int64_t i = begin; i < end; i++) Part(a, i).forward(scratch);
  }
  static void backward(const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
    Part::pad_norm(a, scratch);
    const int64_t n = int64_t{Part::blocks_of(a)} * W, strips = a.strips();
    float* sums = scratch + 2 * n;
    for (int64_t g = begin; g < end; g++) {
      float* total = a.dnorm + g * 2 * a.C;
      for (int64_t j = 0; j < 2 * a.C; j++) total[j] = 0.f;
      for (int64_t i = strips * g / a.groups; i < strips * (g + 1) / a.groups; i++) {
        // A sum for each strip and then over strips loses less than one long sum.
        for (int64_t j = 0; j < 2 * n; j++) sums[j] = 0.f;
        Part(a, i).backward(scratch);
        for (int64_t j = 0; j < a.C; j++) {
          total[j] += sums[j];
          total[a.C + j] += sums[n + j];
        }
      }
    }
  }
};

extern const FftAttentionKernel fft_attention_kernel = {
    [](const FftAttention& a, bool backward) {
      return dispatch<Attention>(a, [&](auto k) { return decltype(k)::scratch(a, backward); });
    },
    [](const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Attention>(a, [&](auto k) { decltype(k)::forward(a, begin, end, scratch); });
    },
    [](const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Attention>(a, [&](auto k) { decltype(k)::backward(a, begin, end, scratch); });
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
