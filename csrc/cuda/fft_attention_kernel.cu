// Kernels of fft_attention for one element type, MOCE_SCALAR.
//
//   forward:  m = q (*) k;  n = (m - mean_C m) / sqrt(var_C m + eps);  out = (n weight + bias) v
//   backward: dv = grad (n weight + bias);  dn = grad v weight;
//             dm = (dn - mean_C dn - n mean_C(dn n)) / sqrt(var_C m + eps);
//             dq, dk = correlations of dm with k and with q;  dweight, dbias: sums over pixels
//
// (*) is the circular convolution of each P x P window of (B, C, H, W). A tile of windows with all
// channels is convolved, normalised and multiplied without leaving the chip where it fits in shared
// memory ("fused"): 4 numbers moved for each output forward, 9 backward, q and k being read twice, and
// the second time from a cache. Else the convolution goes through a float32 buffer: at windows of
// 32, 4 numbers and 2 floats forward. With channels-last memory, neighbouring threads have
// neighbouring channels, and every access is coalesced.
//
// FLOPs: a real transform of a window takes about 2.5 P^2 log2(P^2) = 5 P^2 log2 P; forward has 3,
// backward 6. All else takes 11 for each output forward, 24 backward.

#include "attention_pixels.h"

namespace moce {
namespace {

// The convolution of a tile in shared memory, after scratch for each part of the block.
template <int P>
struct OfTile {
  int scratch;
  Mixed mixed;

  // From so many floats of the shared memory on.
  __device__ OfTile(const AttentionTiling& t, int start)
      : scratch(start), mixed{start + t.parts * matrix_floats(P), t.slot} {}

  // Calls f(first channel, matrix of the part, matrix of the convolution).
  template <class F>
  __device__ void for_groups(const Tile& tile, const AttentionTiling& t, F&& f) const {
    using Matrix = typename Way<P>::Matrix;
    constexpr int G = channels_together(P);
    const int part = threadIdx.x / part_threads(P);
    for (int first = part * G; first < tile.channels; first += t.parts * G)
      f(first, Matrix{shared_memory() + (scratch + part * matrix_floats(P))},
        Matrix{shared_memory() + (mixed.start + first / G * matrix_floats(P))});
  }
  __device__ void convolve(const FftAttention& a, const Tile& tile, const AttentionTiling& t) const {
    if constexpr (P == 4)
      Way<P>::convolve(a, tile, mixed);
    else
      for_groups(tile, t, [&](int first, auto q, auto k) {
        Way<P>::convolve(a, tile, mixed, first, q, k);
      });
    __syncthreads();
  }
  __device__ void correlate(const FftAttention& a, const Tile& tile, const AttentionTiling& t) const {
    if constexpr (P == 4)
      Way<P>::correlate(a, tile, mixed);
    else
      for_groups(tile, t, [&](int first, auto other, auto d) {
        Way<P>::correlate(a, tile, mixed, first, d, other);
      });
    __syncthreads();
  }
};

// Registers enough for no spills, and as many blocks as have them.
template <int P>
constexpr int kAttentionThreads = most_parts(P) * part_threads(P);
template <int P>
constexpr int kAttentionBlocks = P == 4 ? 8 : P == 8 ? 6 : P == 16 ? 2 : 1;
template <int P>
constexpr int kBackwardBlocks = P == 4 ? 8 : P == 8 ? 5 : 1;

template <int P>
__global__ void __launch_bounds__(kAttentionThreads<P>, kAttentionBlocks<P>)
    attention_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  const OfTile<P> of(t, affine_floats(a.C));
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    of.convolve(a, tile, t);
    normalise(a, t, OnChip<P>(a, tile, of.mixed), affine, tile.windows * P * P / 2, tile.b, tile.y,
              tile.x);
    __syncthreads();
  }
}

template <int P>
__global__ void __launch_bounds__(kAttentionThreads<P>, kBackwardBlocks<P>)
    attention_backward_kernel(FftAttention a, AttentionTiling t) {
  const Sums sums(a, shared_memory());
  const OfTile<P> of(t, t.sums);
  sums.clear();
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    of.convolve(a, tile, t);
    differentiate(a, OnChip<P>(a, tile, of.mixed), tile.windows * P * P / 2, t.bits, sums, tile.b,
                  tile.y, tile.x);
    __syncthreads();
    of.correlate(a, tile, t);
  }
  sums.write(a.sums);
}

// Tile i of a pass over pixels: kPixels of one row. Calls f(pixels, pairs of them, b, y, x).
template <class F>
__device__ void for_pixel_tiles(const FftAttention& a, F&& f) {
  const auto across = static_cast<unsigned>(tiles_of(a.W, kPixels));
  const auto rows = static_cast<unsigned>(a.B * a.H), height = static_cast<unsigned>(a.H);
  for (unsigned i = blockIdx.x; i < rows * across; i += gridDim.x) {
    const int x = static_cast<int>(i % across) * kPixels, y = static_cast<int>(i / across % height);
    const int b = static_cast<int>(i / across / height), count = min(kPixels, a.W - x);
    float* mixed = a.mixed + ((int64_t{b} * a.H + y) * a.W + x) * a.C;
    f(InMemory{mixed, a.C, count}, (count + 1) / 2, b, y, x);
  }
}

__global__ void __launch_bounds__(kThreads, 4) normalise_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  for_pixel_tiles(a, [&](const InMemory& pixels, unsigned count, int b, int y, int x) {
    normalise(a, t, pixels, affine, count, b, y, x);
  });
}

__global__ void __launch_bounds__(kThreads) differentiate_kernel(FftAttention a, int bits) {
  const Sums sums(a, shared_memory());
  sums.clear();
  for_pixel_tiles(a, [&](const InMemory& pixels, unsigned count, int b, int y, int x) {
    differentiate(a, pixels, count, bits, sums, b, y, x);
  });
  sums.write(a.sums);
}

void attention(const FftAttention& a, int window, const AttentionTiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(attention_kernel<decltype(P)::value>, blocks_for(t.tiles), t.threads, t.shared, stream,
           a, t);
  });
}
void attention_backward(const FftAttention& a, int window, const AttentionTiling& t,
                        cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(attention_backward_kernel<decltype(P)::value>, blocks_for(t.tiles, kMaxSums), t.threads,
           t.shared, stream, a, t);
  });
}
void normalise(const FftAttention& a, const AttentionTiling& t, cudaStream_t stream) {
  launch(normalise_kernel, blocks_for(pixel_tiles(a)), kThreads,
         sizeof(float) * affine_floats(a.C), stream, a, t);
}
void differentiate(const FftAttention& a, const AttentionTiling& t, cudaStream_t stream) {
  launch(differentiate_kernel, blocks_for(pixel_tiles(a), kMaxSums), kThreads,
         sizeof(float) * kThreads / 32 * 2 * a.C, stream, a, t.bits);
}

}  // namespace

const FftAttentionKernel MOCE_FOR_SCALAR(fft_attention) = {attention, attention_backward, normalise,
                                                          differentiate};

}  // namespace moce
