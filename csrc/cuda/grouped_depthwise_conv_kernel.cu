// Kernels of grouped_depthwise_conv for one element type, MOCE_SCALAR: the convolutions of a layer of
// experts, and the gradients of their weights, in one launch for all of them. A slot's expert says how
// many of its channels are convolved, (slots, channels of the widest, H, W), and with which of the
// weights; its tiles are as if it were alone. Arithmetic and bytes: see depthwise_conv_device.h.

#include "grouped_depthwise_conv_kernel.h"

#include "depthwise_conv_device.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

// Blocks without work leave: the expert's tiles may be fewer, and only the device knows the expert.
template <int K, int N, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_blocks(K))
    grouped_forward_kernel(DepthwiseConv a, const int64_t* index, ExpertTiles<RowTiles> t) {
  const unsigned slot = blockIdx.x / t.blocks, block = blockIdx.x % t.blocks;
  const unsigned e = static_cast<unsigned>(index[slot]) - t.first;
  if (e >= t.count || block >= t.of[e].blocks) return;
  convolve<T, K, N, CH>(a, t.of[e], block, slot, t.channel[e]);
}

// Of the last expert first: it should be the widest, whose blocks take longest.
template <int K, int CH>
__global__ void __launch_bounds__(kRowThreads, resident_for_weight(K))
    grouped_backward_weight_kernel(DepthwiseConv a, const int64_t* order, const int64_t* offsets,
                                   ExpertTiles<WeightTiles> t) {
  unsigned block = blockIdx.x, e = t.count - 1;
  for (; block >= t.of[e].blocks(); e--) block -= t.of[e].blocks();
  const auto slots = static_cast<unsigned>(offsets[e + 1] - offsets[e]);
  // Where the slots begin is read again for each tile: there is no register to keep it in.
  const auto slot_at = [&](unsigned i) { return order[offsets[e] + i]; };
  add_up_products<T, K, CH>(a, t.of[e], block, slots * t.of[e].down * t.of[e].across, slot_at,
                            t.channel[e]);
}

template <int K, int N, int CH>
void launch_forward(const GroupedDepthwiseConv& a, int multiprocessors, cudaStream_t stream) {
  const DepthwiseConv& c = a.conv;
  const size_t experts = a.channels.size();
  int64_t channel = 0;
  for (size_t first = 0; first < experts; first += kExperts) {
    ExpertTiles<RowTiles> t{narrow(first)};
    unsigned staged = 0;
    for (size_t e = first; e < std::min<size_t>(first + kExperts, experts); e++) {
      RowTiles& s = t.of[t.count];
      s = row_tiles(c.x, c.B, a.channels[e] / CH, c.H, c.W, K, N,
                    multiprocessors * resident_blocks(K));
      s.blocks = s.down * s.across;  // of a slot
      t.blocks = std::max(t.blocks, s.blocks);
      staged = std::max(staged, s.staged);
      t.channel[t.count++] = narrow(channel);
      channel += a.channels[e];
    }
    launch(grouped_forward_kernel<K, N, CH>, narrow(c.B * t.blocks), kRowThreads,
           sizeof(float) * staged * CH * K * K, stream, c, a.index, t);
  }
}

template <int K, int CH>
void launch_backward_weight(const GroupedDepthwiseConv& a, const ExpertTiles<WeightTiles>& t,
                            cudaStream_t stream) {
  unsigned threads = 0, floats = 0;
  for (unsigned e = 0; e < t.count; e++) {
    threads = std::max(threads, t.of[e].threads());
    floats = std::max(floats, t.of[e].per * t.of[e].lanes * CH * (K * K + 1));
  }
  launch(grouped_backward_weight_kernel<K, CH>, t.blocks, threads, sizeof(float) * floats, stream,
         a.conv, a.order, a.offsets + t.first, t);
}

constexpr int kPair = 4 / sizeof(T);

void forward(const GroupedDepthwiseConv& a, int kernel, int multiprocessors, cudaStream_t stream) {
  (kernel == 7    ? launch_forward<7, 8, 1>
   : a.conv.pairs ? launch_forward<3, 8 / kPair, kPair>
                  : launch_forward<3, 8, 1>)(a, multiprocessors, stream);
}

void backward_weight(const GroupedDepthwiseConv& a, int kernel, const ExpertTiles<WeightTiles>& t,
                     cudaStream_t stream) {
  (kernel == 7    ? launch_backward_weight<7, 1>
   : a.conv.pairs ? launch_backward_weight<3, kPair>
                  : launch_backward_weight<3, 1>)(a, t, stream);
}

}  // namespace

const GroupedDepthwiseConvKernel MOCE_FOR_SCALAR(grouped_depthwise_conv) = {forward,
                                                                           backward_weight};

}  // namespace moce
