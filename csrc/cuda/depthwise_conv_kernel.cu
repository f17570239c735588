// Kernels of depthwise_conv for one element type, MOCE_SCALAR: see depthwise_conv_device.h.

#include "depthwise_conv_device.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

template <int K, int N, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_blocks(K))
    forward_kernel(DepthwiseConv a, RowTiles s) {
  convolve<T, K, N, CH>(a, s, blockIdx.x, 0, 0);
}

template <int K, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_for_weight(K))
    backward_weight_kernel(DepthwiseConv a, WeightTiles s) {
  add_up_products<T, K, CH>(a, s, blockIdx.x, s.tiles, [](unsigned i) { return i; }, 0);
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
