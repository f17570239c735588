// Kernels of gated_depthwise_conv for one element type, MOCE_SCALAR: a, b = the halves of x's channels
// after a 3 x 3 convolution, out = GELU(a) b, and backward the gradients of a and b.
//
// x (B, 2 C, H, W), out and grad (B, C, H, W). A thread slides down over the same rows of a channel, or
// a pair of them, of both halves (depthwise_rows.h), so that x is read and out written once: 3 numbers
// are moved for each output, 18 products and a GELU computed. Backward convolves again and moves 5.

#include "gated_depthwise_conv_kernel.h"

#include "depthwise_rows.h"
#include "gelu.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

// Blocks that a multiprocessor runs at once, for which registers are kept.
constexpr int resident_blocks(bool backward) { return backward ? 3 : 4; }

template <int N, int CH, bool BACKWARD>
__global__ void __launch_bounds__(kRowThreads, resident_blocks(BACKWARD))
    gated_kernel(GatedDepthwiseConv g, RowTiles s) {
  constexpr int K = 3, taps = 9, S = N + 2;
  const int H = static_cast<int>(g.H), W = static_cast<int>(g.W);
  const Place at = place<N>(s, blockIdx.x, H);
  float* staged_a = shared_memory();  // (units, CH, 9), and the same for b
  float* staged_b = staged_a + s.staged * CH * taps;
  stage(s, at, g.weight, CH * taps, staged_a);
  stage(s, at, g.weight + g.C * taps, CH * taps, staged_b);
  __syncthreads();
  if (at.x >= W) return;
  const int64_t ca = int64_t{at.unit} * CH, cb = g.C + ca;
  float tap_a[taps][CH], tap_b[taps][CH], bias[CH];
  read_taps(staged_a, at, false, tap_a);
  read_taps(staged_b, at, false, tap_b);
  const int first = max(at.y - 1, 0), last = min(at.end + 1, H);
  read_bias(g.bias, ca, bias);
  SlidingRows<K, N, CH> rows_a(bias);
  read_bias(g.bias ? g.bias + g.C : nullptr, ca, bias);
  SlidingRows<K, N, CH> rows_b(bias);
  RowReader<T, CH, S> in_a(g.x, at.b, ca, first, at.x - 1, W);
  RowReader<T, CH, S> in_b(g.x, at.b, cb, first, at.x - 1, W);
  RowWriter<T, CH, N> out(g.out, at.b, ca, at.y, at.x, W);
  RowWriter<T, CH, N> out_b(g.out, at.b, BACKWARD ? cb : ca, at.y, at.x, W);
  RowReader<T, CH, N> grad(BACKWARD ? g.grad : g.x, at.b, ca, at.y, at.x, W);
  float sum[2][CH] = {};
  const auto gate = [&](int y, const float (&a)[N][CH], const float (&b)[N][CH]) {
    float d[N][CH], to[N][CH], to_b[N][CH];
    if constexpr (BACKWARD) {
      grad.read(d);
      if (y + 1 < at.end) grad.fetch();
    }
    unroll<N * CH>([&](auto j) {
      constexpr int n = decltype(j)::value / CH, c = decltype(j)::value % CH;
      float slope;
      const float value = gelu<T>(a[n][c], slope);
      if constexpr (BACKWARD) {
        to[n][c] = d[n][c] * b[n][c] * slope;
        to_b[n][c] = d[n][c] * value;
        if (at.x + n < W) {
          sum[0][c] += to[n][c];
          sum[1][c] += to_b[n][c];
        }
      } else {
        to[n][c] = value * b[n][c];
      }
    });
    out.write(to);
    if constexpr (BACKWARD) out_b.write(to_b);
  };
  in_a.fetch();
  in_b.fetch();
  if constexpr (BACKWARD) grad.fetch();
#pragma unroll 1
  for (int y = first; y < last; y++) {
    float pixel[S][CH], a[N][CH], b[N][CH];
    const bool more = y + 1 < last;
    in_a.read(pixel);
    if (more) in_a.fetch();
    rows_a.add(pixel, tap_a, a);
    in_b.read(pixel);
    if (more) in_b.fetch();
    rows_b.add(pixel, tap_b, b);
    if (y - 1 >= at.y) gate(y - 1, a, b);
  }
  if (last - 1 < at.end) gate(last - 1, rows_a.template rest<0>(), rows_b.template rest<0>());
  if (BACKWARD && g.sums) {
    const int64_t row = int64_t{blockIdx.x / s.across} * s.runs + at.x / N;
    unroll<CH>([&](auto c) {
      g.sums[row * 2 * g.C + ca + c.value] = sum[0][c.value];
      g.sums[row * 2 * g.C + cb + c.value] = sum[1][c.value];
    });
  }
}

constexpr int kColumns = 4, kPair = 4 / sizeof(T);

template <bool BACKWARD>
RowTiles tiles(const GatedDepthwiseConv& g, int multiprocessors) {
  return row_tiles(g.x, g.B, g.C / (g.pairs ? kPair : 1), g.H, g.W, 3, kColumns,
                   multiprocessors * resident_blocks(BACKWARD));
}

template <int CH, bool BACKWARD>
void launch_gated(const GatedDepthwiseConv& g, int multiprocessors, cudaStream_t stream) {
  const RowTiles s = tiles<BACKWARD>(g, multiprocessors);
  launch(gated_kernel<kColumns, CH, BACKWARD>, s.blocks, kRowThreads,
         sizeof(float) * s.staged * CH * 18, stream, g, s);
}

template <bool BACKWARD>
void run(const GatedDepthwiseConv& g, int multiprocessors, cudaStream_t stream) {
  (g.pairs ? launch_gated<kPair, BACKWARD>
           : launch_gated<1, BACKWARD>)(g, multiprocessors, stream);
}

}  // namespace

const GatedDepthwiseConvKernel MOCE_FOR_SCALAR(gated_depthwise_conv) = {run<false>, tiles<true>,
                                                                       run<true>};

}  // namespace moce
