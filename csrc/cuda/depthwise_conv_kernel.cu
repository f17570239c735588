// Kernels of depthwise_conv for one element type, MOCE_SCALAR: K x K taps of each channel of
// (B, C, H, W), stride 1, zero padding K/2, and the gradient of the taps.
//
// A thread computes 2 rows of 8 pixels of one channel: (K + 1) (K + 7) loads, most of which its
// neighbours make too, for 16 K^2 products. With channels-last memory the 32 lanes of a warp have
// neighbouring channels, else neighbouring strips. Bytes that must be moved: 2 numbers for each
// output; FLOPs: 2 K^2 for each. For the gradient of the taps a thread keeps all of them in registers
// over its strips; blocks leave their sums, which are added up in a fixed order.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "depthwise_conv_kernel.h"
#include "moce/unroll.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

struct Strip {
  int64_t b, y, x;
};

__device__ Strip strip_at(const Strips& s, int rows, unsigned i) {
  return {i / s.across / s.down, int64_t{i / s.across % s.down} * rows,
          int64_t{i % s.across} * kStrip};
}

// Pixels x ... x + N - 1 of a row; zeros outside the image.
template <int N>
__device__ void read_row(const DepthwiseConv& a, const Strided& s, int64_t b, int64_t c, int64_t y,
                         int64_t x, float (&to)[N]) {
  const T* p = static_cast<const T*>(s.data) + b * s.b + c * s.c + y * s.h + x * s.w;
  unroll<N>([&](auto i) {
    const int64_t at = x + i.value;
    to[i.value] = at >= 0 && at < a.W ? static_cast<float>(p[i.value * s.w]) : 0.f;
  });
}

template <int K>
__global__ void __launch_bounds__(kThreads) forward_kernel(DepthwiseConv a, Strips s) {
  constexpr int N = kStrip, R = kStripRows, pad = K / 2;
  float* taps = shared_memory();  // (K K, lanes)
  const unsigned lane = threadIdx.x % s.lanes, each = kThreads / s.lanes;
  const int64_t first = int64_t{blockIdx.x % s.groups} * s.lanes, c = first + lane;
  for (unsigned i = threadIdx.x; i < s.lanes * K * K; i += kThreads)
    if (first + i / (K * K) < a.C)
      taps[i % (K * K) * s.lanes + i / (K * K)] = a.weight[first * K * K + i];
  __syncthreads();
  if (c >= a.C) return;
  const float bias = a.bias ? a.bias[c] : 0.f;
  for (unsigned i = blockIdx.x / s.groups * each + threadIdx.x / s.lanes; i < s.strips;
       i += s.chunks * each) {
    const Strip at = strip_at(s, R, i);
    float sum[R][N];
    unroll<R * N>([&](auto j) { sum[j.value / N][j.value % N] = bias; });
#pragma unroll 1
    for (int row = 0; row < R + K - 1; row++) {
      const int64_t y = at.y - pad + row;
      if (y < 0 || y >= a.H) continue;
      float pixel[N + K - 1];
      read_row(a, a.x, at.b, c, y, at.x - pad, pixel);
      unroll<R>([&](auto r) {
        const int ky = row - r.value;
        if (ky < 0 || ky >= K) return;
        unroll<K>([&](auto kx) {
          const float tap = taps[(ky * K + kx.value) * s.lanes + lane];
          unroll<N>([&](auto n) { sum[r.value][n.value] += tap * pixel[n.value + kx.value]; });
        });
      });
    }
    T* to = static_cast<T*>(a.out.data) + at.b * a.out.b + c * a.out.c + at.y * a.out.h +
            at.x * a.out.w;
    unroll<R * N>([&](auto j) {
      constexpr int r = decltype(j)::value / N, n = decltype(j)::value % N;
      if (at.y + r < a.H && at.x + n < a.W)
        to[r * a.out.h + n * a.out.w] = static_cast<T>(sum[r][n]);
    });
  }
}

template <int K>
__global__ void __launch_bounds__(kThreads) backward_weight_kernel(DepthwiseConv a, Strips s) {
  constexpr int N = kStrip, pad = K / 2, taps = K * K;
  float* part = shared_memory();  // (warps, K K + 1, lanes)
  const unsigned lane = threadIdx.x % s.lanes, each = kThreads / s.lanes;
  const int64_t c = int64_t{blockIdx.x % s.groups} * s.lanes + lane;
  float sum[taps + 1];
  unroll<taps + 1>([&](auto t) { sum[t.value] = 0; });
  if (c < a.C)
    for (unsigned i = blockIdx.x / s.groups * each + threadIdx.x / s.lanes; i < s.strips;
         i += s.chunks * each) {
      const Strip at = strip_at(s, 1, i);
      float grad[N];
      read_row(a, a.grad, at.b, c, at.y, at.x, grad);
      unroll<N>([&](auto n) { sum[taps] += grad[n.value]; });
      unroll<K>([&](auto ky) {
        const int64_t y = at.y - pad + ky.value;
        if (y < 0 || y >= a.H) return;
        float pixel[N + K - 1];
        read_row(a, a.x, at.b, c, y, at.x - pad, pixel);
        unroll<K * N>([&](auto j) {
          constexpr int kx = decltype(j)::value / N, n = decltype(j)::value % N;
          sum[ky.value * K + kx] += grad[n] * pixel[n + kx];
        });
      });
    }
  unroll<taps + 1>([&](auto t) {
    const float all = sum_lanes(sum[t.value], s.lanes, 32);
    if (threadIdx.x % 32 < s.lanes)
      part[(threadIdx.x / 32 * (taps + 1) + t.value) * s.lanes + lane] = all;
  });
  __syncthreads();
  float* to = a.sums + blockIdx.x / s.groups * a.C * (taps + 1);
  for (unsigned i = threadIdx.x; i < (taps + 1) * s.lanes; i += kThreads) {
    const int64_t tap = i / s.lanes, channel = c - lane + i % s.lanes;
    if (channel >= a.C) continue;
    float all = 0;
    for (int w = 0; w < kThreads / 32; w++) all += part[w * (taps + 1) * s.lanes + i];
    to[tap < taps ? channel * taps + tap : a.C * taps + channel] = all;
  }
}

void forward(const DepthwiseConv& a, int kernel, const Strips& s, cudaStream_t stream) {
  launch(kernel == 3 ? forward_kernel<3> : forward_kernel<7>, s.blocks(), kThreads,
         sizeof(float) * kernel * kernel * s.lanes, stream, a, s);
}
void backward_weight(const DepthwiseConv& a, int kernel, const Strips& s, cudaStream_t stream) {
  launch(kernel == 3 ? backward_weight_kernel<3> : backward_weight_kernel<7>, s.blocks(), kThreads,
         sizeof(float) * kThreads / 32 * (kernel * kernel + 1) * s.lanes, stream, a, s);
}

}  // namespace

const DepthwiseConvKernel MOCE_FOR_SCALAR(depthwise_conv) = {forward, backward_weight};

}  // namespace moce
