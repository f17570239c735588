// Kernels of grouped_window_conv for one element type, MOCE_SCALAR: q (*) k of each slot of a routing
// plan, with the window and in the channels of its expert, and its gradients. Bytes and operations are
// window_fft_conv's (window_fft_conv_kernel.cu), with floats for the result and for its gradient.
//
// One launch for all experts of a layer. Only the device knows which expert a slot has: its blocks look
// it up, and go the way of its window. Their registers and shared memory are those of the widest window,
// so that of the others fewer blocks are at work at a time than there could be; three launches less,
// each with blocks for all slots, are worth more.

#include "grouped_window_conv_kernel.h"
#include "window_fft_device.h"

namespace moce {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocks = 3;  // at a time, for which there is shared memory at windows of 32

// Parts of a block; one at windows of 4, whose threads share no memory.
constexpr int parts(int window) { return window == 4 ? 1 : kThreads / part_threads(window); }

// Calls f(Int<window>, tile, matrices) for the tile of this part of the block, if there is one.
template <class F>
__device__ void with_tile(const WindowFftConv& a, const Experts& experts, F&& f) {
  unsigned place = blockIdx.x;  // in the order of the experts
  const unsigned block = experts.blocks.divide(place);
  // All of the plan that is needed is asked for at once.
  const int slot = static_cast<int>(experts.order[place]);
  int e = -1;
#pragma unroll
  for (int i = 0; i <= kMostExperts; i++)
    if (i <= experts.count) e += place >= experts.offsets[i];
  if (e < 0 || e == experts.count) return;
  const Tiling& t = experts.of[e].tiling;
  with_window(experts.of[e].window, [&](auto window) {
    constexpr int P = decltype(window)::value;
    const unsigned part = threadIdx.x / (kThreads / parts(P)), i = block * parts(P) + part;
    if (i >= t.of_image) return;
    Tile tile = tile_at<P>(a, t, i);
    tile.b = slot;
    f(window, tile, shared_memory() + part * 2 * matrix_floats(P));
  });
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    grouped_convolve_kernel(WindowFftConv a, Experts experts) {
  with_tile(a, experts, [&](auto window, const Tile& tile, float* shared) {
    constexpr int P = decltype(window)::value;
    if constexpr (P == 4)
      Way<P>::convolve(a, tile, Of<float>{a.out});
    else
      Way<P>::convolve(a, tile, Of<float>{a.out}, 0, {shared}, {shared + matrix_floats(P)});
  });
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    grouped_correlate_kernel(WindowFftConv a, Experts experts) {
  with_tile(a, experts, [&](auto window, const Tile& tile, float* shared) {
    constexpr int P = decltype(window)::value;
    if constexpr (P == 4)
      Way<P>::correlate(a, tile, Of<float>{a.grad});
    else
      Way<P>::correlate(a, tile, Of<float>{a.grad}, 0, {shared}, {shared + matrix_floats(P)});
  });
}

template <class Kernel>
void launch_for(Kernel kernel, const WindowFftConv& a, Experts experts, cudaStream_t stream) {
  int64_t blocks = 0;
  size_t shared = 0;
  for (int e = 0; e < experts.count; e++) {
    const int P = experts.of[e].window;
    blocks = std::max(blocks, tiles_of(experts.of[e].tiling.of_image, parts(P)));
    shared = std::max(shared, sizeof(float) * parts(P) * 2 * matrix_floats(P));
  }
  experts.blocks = Divisor(narrow(blocks));
  launch(kernel, narrow(blocks * a.B), kThreads, shared, stream, a, experts);
}

void convolve(const WindowFftConv& a, const Experts& experts, cudaStream_t stream) {
  launch_for(grouped_convolve_kernel, a, experts, stream);
}
void correlate(const WindowFftConv& a, const Experts& experts, cudaStream_t stream) {
  launch_for(grouped_correlate_kernel, a, experts, stream);
}

}  // namespace

const GroupedWindowConvKernel MOCE_FOR_SCALAR(grouped_window_conv) = {convolve, correlate};

}  // namespace moce
