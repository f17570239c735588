// Kernels of window_fft_conv for one element type, MOCE_SCALAR: out = q (*) k, the circular
// convolution of each P x P window of (B, C, H, W), and its gradients, the correlations of grad with k
// and with q. 3 numbers moved for each output forward, 5 backward; out and grad may be floats.
//
// FLOPs: a real transform of a window takes about 2.5 P^2 log2(P^2) = 5 P^2 log2 P and a product of
// spectra 3 P^2; forward has 3 and 1, backward 5 and 2.

#include "window_fft_device.h"

namespace moce {
namespace {

// Registers enough for no spills, and as many blocks as have them.
template <int P>
constexpr int kConvolveThreads = convolve_parts(P) * part_threads(P);
template <int P>
constexpr int kConvolveBlocks = P <= 8 ? 6 : P == 16 ? 5 : 3;

// Calls f(tile, matrices) for the tile of this part of the block, if there is one.
template <int P, class F>
__device__ void with_tile(const WindowFftConv& a, const Tiling& t, F&& f) {
  const unsigned part = threadIdx.x / part_threads(P), i = blockIdx.x * convolve_parts(P) + part;
  if (i < t.tiles)
    f(tile_at<P>(a, t, i), shared_memory() + part * 2 * matrix_floats(P));
}

// E: the elements of `out`.
template <int P, class E>
__global__ void __launch_bounds__(kConvolveThreads<P>, kConvolveBlocks<P>)
    window_convolve_kernel(WindowFftConv a, Tiling t) {
  with_tile<P>(a, t, [&](const Tile& tile, float* shared) {
    if constexpr (P == 4)
      Way<P>::convolve(a, tile, Of<E>{a.out});
    else
      Way<P>::convolve(a, tile, Of<E>{a.out}, 0, {shared}, {shared + matrix_floats(P)});
  });
}

// E: the elements of `grad`.
template <int P, class E>
__global__ void __launch_bounds__(kConvolveThreads<P>, kConvolveBlocks<P>)
    window_correlate_kernel(WindowFftConv a, Tiling t) {
  with_tile<P>(a, t, [&](const Tile& tile, float* shared) {
    if constexpr (P == 4)
      Way<P>::correlate(a, tile, Of<E>{a.grad});
    else
      Way<P>::correlate(a, tile, Of<E>{a.grad}, 0, {shared}, {shared + matrix_floats(P)});
  });
}

unsigned blocks_of(const Tiling& t) { return narrow(tiles_of(t.tiles, t.parts)); }

template <class E>
void convolve(const WindowFftConv& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(window_convolve_kernel<decltype(P)::value, E>, blocks_of(t),
           t.threads, t.shared, stream, a, t);
  });
}
template <class E>
void correlate(const WindowFftConv& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(window_correlate_kernel<decltype(P)::value, E>, blocks_of(t),
           t.threads, t.shared, stream, a, t);
  });
}

}  // namespace

const WindowFftConvKernel MOCE_FOR_SCALAR(window_fft_conv) = {convolve<T>, correlate<T>,
                                                              convolve<float>, correlate<float>};

}  // namespace moce
