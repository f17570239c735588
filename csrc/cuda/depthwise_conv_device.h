// What the kernels of depthwise_conv and of grouped_depthwise_conv do, for elements T: K x K taps of each
// channel of (B, C, H, W), stride 1, zero padding K/2, and the gradient of the taps.
//
// Threads slide down over rows, see depthwise_rows.h. 3 x 3: 8 results a row, of a pair of channels and
// 4 columns where elements have 16 bits. 7 x 7: 8 columns of one channel, whose 49 taps fill the
// registers. Bytes that must be moved: 2 numbers for each output; FLOPs: 2 K^2 for each.
//
// For the gradient of the taps a thread keeps all of them in registers over all its tiles, and the last
// K rows of the output's gradient: each row of x is loaded once and multiplied into all taps. Blocks
// leave their sums, which are added up in a fixed order.

#pragma once

#include "depthwise_conv_kernel.h"
#include "depthwise_rows.h"

namespace moce {

#if defined(__CUDACC__) || defined(MOCE_EMULATED)

// A block's share of a convolution: of image `image` and those after it, and of the weight and bias from
// channel `from` on.
template <class T, int K, int N, int CH>
__device__ void convolve(const DepthwiseConv& a, const RowTiles& s, unsigned block, int64_t image,
                         int64_t from) {
  constexpr int pad = K / 2;
  const int H = static_cast<int>(a.H), W = static_cast<int>(a.W);
  Place at = place<N>(s, block, H);
  at.b += image;
  float* staged = shared_memory();  // (units, CH, K K)
  stage(s, at, a.weight + from * K * K, CH * K * K, staged);
  __syncthreads();
  if (at.x >= W) return;
  const int64_t c = int64_t{at.unit} * CH;
  float tap[K * K][CH], bias[CH];
  read_taps(staged, at, a.flip, tap);
  read_bias(a.bias ? a.bias + from : nullptr, c, bias);
  const int first = max(at.y - pad, 0), last = min(at.end + pad, H);
  SlidingRows<K, N, CH> rows(bias);
  RowReader<T, CH, N + K - 1> in(a.x, at.b, c, first, at.x - pad, W);
  RowWriter<T, CH, N> out(a.out, at.b, c, at.y, at.x, W);
  in.fetch();
#pragma unroll 1
  for (int y = first; y < last; y++) {
    float pixel[N + K - 1][CH], done[N][CH];
    in.read(pixel);
    if (y + 1 < last) in.fetch();
    if constexpr (K == 3)
      rows.add(pixel, tap, done);
    else  // bound by arithmetic: products for other tiles' rows are worth leaving out
      rows.add(pixel, tap, done, at.y + pad - y, at.end + pad - y);
    if (y - pad >= at.y) out.write(done);
  }
  unroll<pad>([&](auto i) {
    const int y = last - pad + i.value;
    if (y >= at.y && y < at.end) out.write(rows.template rest<i.value>());
  });
}

// A block's share of the gradients of weight and bias: row `chunk` of the sums, for channels that begin
// there at number `from`. Of `tiles` tiles, those of the i-th image are of image_at(i).
template <class T, int K, int CH, class ImageAt>
__device__ void add_up_products(const DepthwiseConv& a, const WeightTiles& s, unsigned block,
                                unsigned tiles, ImageAt&& image_at, int64_t from) {
  constexpr int N = columns_for_weight(K, CH == 2), pad = K / 2, taps = K * K;
  const int H = static_cast<int>(a.H), W = static_cast<int>(a.W);
  const unsigned chunk = block / s.groups, start = block % s.groups * s.lanes;
  const unsigned lane = threadIdx.x % s.lanes, run = threadIdx.x / s.lanes;
  const bool works = run < s.per && start + lane < s.units;
  const int64_t c = int64_t{start + lane} * CH;
  float sum[taps + 1][CH];
  unroll<(taps + 1) * CH>([&](auto i) { sum[i.value / CH][i.value % CH] = 0; });
  if (works)
    for (unsigned i = chunk; i < tiles; i += s.chunks) {
      const int x = static_cast<int>((i % s.across * s.per + run) * N);
      if (x >= W) continue;
      const int64_t b = image_at(i / s.across / s.down);
      const int top = static_cast<int>(i / s.across % s.down * s.rows);
      const int end = min(H, top + static_cast<int>(s.rows));
      const int first = max(top - pad, 0), last = min(end + pad, H);
      RowReader<T, CH, N + K - 1> pixels(a.x, b, c, first, x - pad, W);
      RowReader<T, CH, N> grads(a.grad, b, c, top, x, W);
      // Rows y - pad to y + pad of the gradient, each in the place of its number modulo K, and zeros
      // for those outside the tile. Of the first input row's, all but the last are read here.
      float grad[K][N][CH];
      const auto take = [&](int y, auto place) {
        constexpr int j = decltype(place)::value;
        if (y >= top && y < end) {
          grads.read(grad[j]);
          if (y + 1 < end) grads.fetch();
          unroll<N * CH>([&](auto k) {
            sum[taps][k.value % CH] += grad[j][k.value / CH][k.value % CH];
          });
        } else {
          unroll<N * CH>([&](auto k) { grad[j][k.value / CH][k.value % CH] = 0; });
        }
      };
      grads.fetch();
      pixels.fetch();
      unroll<K - 1>([&](auto j) { take(first - pad + j.value, Int<j.value>{}); });
#pragma unroll 1
      for (int y = first; y < last; y += K)
        unroll<K>([&](auto phase) {
          constexpr int p = decltype(phase)::value;
          if (y + p >= last) return;
          float pixel[N + K - 1][CH];
          pixels.read(pixel);
          if (y + p + 1 < last) pixels.fetch();
          take(y + p + pad, Int<(p + K - 1) % K>{});
          unroll<K>([&](auto j) {  // the gradient's row y + p - pad + j
            unroll<K * N * CH>([&](auto k) {
              constexpr int n = decltype(k)::value / CH % N, kx = decltype(k)::value / CH / N;
              constexpr int ch = decltype(k)::value % CH, row = (p + decltype(j)::value) % K;
              sum[(K - 1 - j.value) * K + kx][ch] += grad[row][n][ch] * pixel[n + kx][ch];
            });
          });
        });
    }
  float* part = shared_memory();  // (per, lanes, CH, taps + 1)
  const unsigned each = s.lanes * CH * (taps + 1);
  if (run < s.per)
    unroll<(taps + 1) * CH>([&](auto i) {
      constexpr int t = decltype(i)::value / CH, ch = decltype(i)::value % CH;
      part[run * each + (lane * CH + ch) * (taps + 1) + t] = sum[t][ch];
    });
  __syncthreads();
  float* to = a.sums + int64_t{chunk} * a.C * (taps + 1);
  for (unsigned i = threadIdx.x; i < each; i += blockDim.x) {
    const unsigned tap = i % (taps + 1);
    const unsigned channel = start * CH + i / (taps + 1);
    if (channel >= s.units * CH) continue;
    float all = 0;
    for (unsigned r = 0; r < s.per; r++) all += part[r * each + i];
    to[tap < taps ? (from + channel) * taps + tap : a.C * taps + from + channel] = all;
  }
}

#endif

}  // namespace moce
