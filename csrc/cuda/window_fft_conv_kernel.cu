// Kernels of window_fft_conv for one element type, MOCE_SCALAR: out = q (*) k, the circular
// convolution of each P x P window of (B, C, H, W), and its gradients, the correlations of grad with k
// and with q. 3 numbers moved for each output forward, 5 backward; out and grad may be floats. With a
// routing plan B is the number of slots, and only those of one expert are done.
//
// FLOPs: a real transform of a window takes about 2.5 P^2 log2(P^2) = 5 P^2 log2 P and a product of
// spectra 3 P^2; forward has 3 and 1, backward 5 and 2.

#include "window_fft_device.h"

namespace moce {
namespace {

// E: the elements of `out`.
template <int P, class E>
__global__ void __launch_bounds__(threads_of(P), kBlocks<P>)
    window_convolve_kernel(WindowFftConv a, Tiling t) {
  const unsigned tiles = count_tiles(a, t);
  for (unsigned i = blockIdx.x; i < tiles; i += gridDim.x)
    Way<P>::convolve(a, tile_at<P>(a, t, i), Of<E>{a.out}, shared_memory());
}

// E: the elements of `grad`.
template <int P, class E>
__global__ void __launch_bounds__(threads_of(P), kBlocks<P>)
    window_correlate_kernel(WindowFftConv a, Tiling t) {
  const unsigned tiles = count_tiles(a, t);
  for (unsigned i = blockIdx.x; i < tiles; i += gridDim.x)
    Way<P>::correlate(a, tile_at<P>(a, t, i), Of<E>{a.grad}, shared_memory());
}

template <class E>
void convolve(const WindowFftConv& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(window_convolve_kernel<decltype(P)::value, E>, blocks_for(t.tiles), t.threads, t.shared,
           stream, a, t);
  });
}
template <class E>
void correlate(const WindowFftConv& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(window_correlate_kernel<decltype(P)::value, E>, blocks_for(t.tiles), t.threads, t.shared,
           stream, a, t);
  });
}

}  // namespace

const WindowFftConvKernel MOCE_FOR_SCALAR(window_fft_conv) = {convolve<T>, correlate<T>,
                                                              convolve<float>, correlate<float>};

}  // namespace moce
