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

#include "attention_fours.h"

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
constexpr int kAttentionBlocks = P == 4 ? (sizeof(T) == 4 ? 6 : 8) : P == 8 ? 6 : P == 16 ? 2 : 1;
template <int P>
constexpr int kInMemoryBlocks = P == 32 ? 3 : P == 16 ? 5 : 6;
template <int P>
constexpr int kBackwardBlocks = P == 4 ? 6 : P == 8 ? 4 : 1;

template <int P>
__global__ void __launch_bounds__(kAttentionThreads<P>, kAttentionBlocks<P>)
    attention_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  const OfTile<P> of(t, affine_floats(a.C));
  const Tile tile = tile_at<P>(a, t, blockIdx.x);
  of.convolve(a, tile, t);
  normalise(a, t, OnChip<P>(in_windows<P>(a, tile), of.mixed), affine, tile.windows * P * P / 2,
            tile.b, tile.y, tile.x);
}

template <int P>
__global__ void __launch_bounds__(kAttentionThreads<P>, kBackwardBlocks<P>)
    attention_backward_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  const Sums sums(a, shared_memory() + affine_floats(a.C));
  const OfTile<P> of(t, affine_floats(a.C) + t.sums);
  sums.clear();
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    of.convolve(a, tile, t);
    differentiate(a, t, OnChip<P>(in_windows<P>(a, tile), of.mixed), affine, sums,
                  tile.windows * P * P / 2, tile.b, tile.y, tile.x);
    __syncthreads();
    of.correlate(a, tile, t);
  }
  sums.write(a.sums);
}

// The same with the convolution in memory. The block that convolves the last channels of a tile
// normalises it, while much of it is still in the cache; a.counters counts them.
template <int P>
__global__ void __launch_bounds__(part_threads(P), kInMemoryBlocks<P>)
    attention_in_memory_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  float *last = shared_memory() + affine_floats(a.C), *matrices = last + 4;
  const Tile tile = tile_at<P>(a, t, blockIdx.x);
  if constexpr (P == 4)
    Way<P>::convolve(a, tile, Of<float>{a.mixed});
  else
    Way<P>::convolve(a, tile, Of<float>{a.mixed}, 0, {matrices}, {matrices + matrix_floats(P)});
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned window = blockIdx.x;
    t.groups.divide(window);
    *last = atomicAdd(a.counters + window, 1u) + 1 == t.groups.divisor;
  }
  __syncthreads();
  if (*last == 0) return;
  __threadfence();
  const InMemory<P> pixels(in_windows<P>(a, tile), a, tile.b, tile.y, tile.x);
  normalise(a, t, pixels, affine, tile.windows * P * P / 2, tile.b, tile.y, tile.x);
}

__global__ void __launch_bounds__(kThreads) differentiate_kernel(FftAttention a, AttentionTiling t) {
  const Affine affine(a, shared_memory());
  const Sums sums(a, shared_memory() + affine_floats(a.C));
  sums.clear();
  const auto across = static_cast<unsigned>(tiles_of(a.W, kPixels));
  const auto rows = static_cast<unsigned>(a.B * a.H), height = static_cast<unsigned>(a.H);
  for (unsigned i = blockIdx.x; i < rows * across; i += gridDim.x) {
    const int x = static_cast<int>(i % across) * kPixels, y = static_cast<int>(i / across % height);
    const int b = static_cast<int>(i / across / height), count = min(kPixels, a.W - x);
    const InMemory<kPixels> pixels({1, count}, a, b, y, x);
    differentiate(a, t, pixels, affine, sums, (count + 1) / 2, b, y, x);
  }
  sums.write(a.sums);
}

void attention(const FftAttention& a, int window, const AttentionTiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(attention_kernel<decltype(P)::value>, t.tiles, t.threads, t.shared, stream,
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
void attention_in_memory(const FftAttention& a, int window, const AttentionTiling& t,
                         cudaStream_t stream) {
  with_window(window, [&](auto P) {
    constexpr int kWindow = decltype(P)::value;
    launch(attention_in_memory_kernel<kWindow>, t.tiles, part_threads(kWindow),
           sizeof(float) * (affine_floats(a.C) + 4 + 2 * matrix_floats(kWindow)), stream, a, t);
  });
}
void differentiate(const FftAttention& a, const AttentionTiling& t, cudaStream_t stream) {
  launch(differentiate_kernel, blocks_for(pixel_tiles(a), kMaxSums), kThreads,
         sizeof(float) * (affine_floats(a.C) + kThreads / 32 * 2 * a.C), stream, a, t);
}

}  // namespace

const FftAttentionKernel MOCE_FOR_SCALAR(fft_attention) = {attention, attention_backward,
                                                          attention_in_memory, differentiate};

}  // namespace moce
