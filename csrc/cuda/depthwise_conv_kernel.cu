// Kernels of depthwise_conv for one element type, MOCE_SCALAR: K x K taps of each channel of
// (B, C, H, W), stride 1, zero padding K/2, and the gradient of the taps.
//
// Threads slide down over rows, see depthwise_rows.h. 3 x 3: 8 results a row, of a pair of channels and
// 4 columns where elements have 16 bits. 7 x 7: 8 columns of one channel, whose 49 taps fill the
// registers. Bytes that must be moved: 2 numbers for each output; FLOPs: 2 K^2 for each.
//
// For the gradient of the taps a thread keeps all of them in registers over all its tiles, and the last
// K rows of the output's gradient: each row of x is loaded once and multiplied into all taps. Blocks
// leave their sums, which are added up in a fixed order.

#include "depthwise_conv_kernel.h"

#include "depthwise_rows.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

template <int K, int N, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_blocks(K))
    forward_kernel(DepthwiseConv a, RowTiles s) {
  constexpr int pad = K / 2;
  const int H = static_cast<int>(a.H), W = static_cast<int>(a.W);
  const Place at = place<N>(s, H);
  float* staged = shared_memory();  // (units, CH, K K)
  stage(s, at, a.weight, CH * K * K, staged);
  __syncthreads();
  if (at.x >= W) return;
  const int64_t c = int64_t{at.unit} * CH;
  float tap[K * K][CH], bias[CH];
  read_taps(staged, at, a.flip, tap);
  read_bias(a.bias, c, bias);
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

template <int K, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_for_weight(K))
    backward_weight_kernel(DepthwiseConv a, WeightTiles s) {
  constexpr int N = columns_for_weight(K, CH == 2), pad = K / 2, taps = K * K;
  const int H = static_cast<int>(a.H), W = static_cast<int>(a.W);
  const unsigned chunk = blockIdx.x / s.groups, start = blockIdx.x % s.groups * s.lanes;
  const unsigned lane = threadIdx.x % s.lanes, run = threadIdx.x / s.lanes;
  const bool works = run < s.per && start + lane < s.units;
  const int64_t c = int64_t{start + lane} * CH;
  float sum[taps + 1][CH];
  unroll<(taps + 1) * CH>([&](auto i) { sum[i.value / CH][i.value % CH] = 0; });
  if (works)
    for (unsigned i = chunk; i < s.tiles; i += s.chunks) {
      const int x = static_cast<int>((i % s.across * s.per + run) * N);
      if (x >= W) continue;
      const int64_t b = i / s.across / s.down;
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
    const int64_t channel = int64_t{start} * CH + i / (taps + 1);
    if (channel >= a.C) continue;
    float all = 0;
    for (unsigned r = 0; r < s.per; r++) all += part[r * each + i];
    to[tap < taps ? channel * taps + tap : a.C * taps + channel] = all;
  }
}

template <int K, int N, int CH>
void launch_forward(const DepthwiseConv& a, int multiprocessors, cudaStream_t stream) {
  const RowTiles s =
      row_tiles(a.x, a.B, a.C / CH, a.H, a.W, K, N, multiprocessors * resident_blocks(K));
  launch(forward_kernel<K, N, CH>, s.blocks, kRowThreads, sizeof(float) * s.staged * CH * K * K,
         stream, a, s);
}

template <int K, int CH>
void launch_backward_weight(const DepthwiseConv& a, const WeightTiles& s, cudaStream_t stream) {
  launch(backward_weight_kernel<K, CH>, s.blocks(), s.threads(),
         sizeof(float) * s.per * s.lanes * CH * (K * K + 1), stream, a, s);
}

constexpr int kPair = 4 / sizeof(T);

void forward(const DepthwiseConv& a, int kernel, int multiprocessors, cudaStream_t stream) {
  (kernel == 7 ? launch_forward<7, 8, 1>
   : a.pairs   ? launch_forward<3, 8 / kPair, kPair>
               : launch_forward<3, 8, 1>)(a, multiprocessors, stream);
}

void backward_weight(const DepthwiseConv& a, int kernel, const WeightTiles& s,
                     cudaStream_t stream) {
  (kernel == 7 ? launch_backward_weight<7, 1>
   : a.pairs   ? launch_backward_weight<3, kPair>
               : launch_backward_weight<3, 1>)(a, s, stream);
}

}  // namespace

const DepthwiseConvKernel MOCE_FOR_SCALAR(depthwise_conv) = {forward, backward_weight};

}  // namespace moce
