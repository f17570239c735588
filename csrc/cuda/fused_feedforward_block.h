// A block of fused_feedforward_kernel.cu: its tile, its shared memory, and how x comes there.
#pragma once

#include <type_traits>

#include "copy_async.h"
#include "fused_feedforward_kernel.h"
#include "tensor_cores.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

constexpr int kThreads = 256;
constexpr int kHaloWidth = kTileWidth + 2;
constexpr int kColumns = 2;  // of results that a thread convolves, of two channels
// Elements that are moved at once.
template <class T>
constexpr int kPiece = 16 / sizeof(T);

// The thread's and the block's number, read anew each time: what follows from them is computed again
// where it is used and takes no registers in between.
__device__ inline unsigned thread_here() {
#ifdef MOCE_EMULATED
  return threadIdx.x;
#else
  unsigned number;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(number));
  return number;
#endif
}
__device__ inline unsigned block_here() {
#ifdef MOCE_EMULATED
  return blockIdx.x;
#else
  unsigned number;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(number));
  return number;
#endif
}

// A block's place, and its shared memory, for C = 16 K channels. Strides are in elements from one pixel to
// the next, such that lanes meet different banks.
template <class T_, int K_, int HEIGHT = tile_height(sizeof(T_), 16 * K_)>
struct Block {
  using T = T_;
  static constexpr int K = K_, C = 16 * K, kChunk = chunk_channels(sizeof(T));
  static constexpr int kHeight = HEIGHT, kPixels = kTileWidth * kHeight;
  static constexpr int kHalo = kHaloWidth * (kHeight + 2), kInputPixels = (kHalo + 31) / 32 * 32;
  static constexpr int kInputStride = C + kPiece<T>, kHiddenStride = 2 * kChunk + 8;
  static constexpr int kGatedStride = kChunk + kPiece<T>, kSumStride = C + 8;
  static constexpr int kQueryKeyStride = 2 * C + kPiece<T>;
  // Threads for all channels and columns convolve so many rows, as one of kGroups groups. A group's gated
  // pixels follow those of the one before.
  static constexpr int kGroups = kThreads / (kChunk / 2 * (kTileWidth / kColumns));
  static constexpr int kRows = kHeight / kGroups;
  static constexpr int kGroup = kRows * kTileWidth * kGatedStride;
  // Matrices of 16 pixels that a warp multiplies last, and the pixels before those of the next quarter.
  static constexpr int kMatrices = kHeight / 4;
  static_assert(kHalo <= kThreads && kHeight % kGroups == 0 && 4 % kGroups == 0);

  int64_t image;
  int height, width, y, x;  // of the image, and of the tile's first pixel
  T* input;                 // (kInputPixels, kInputStride): the pixels with their ring, and some unused
  T* hidden;                // (kHalo, kHiddenStride): of a chunk a, then b
  T* gated;                 // (kPixels, kGatedStride) in groups of kGroup elements;
  T* query_key;             // or instead (kPixels, kQueryKeyStride): q, then k
  float* parked;            // (kParked, kThreads, 4)
  float* sums;              // (kPixels, kSumStride): at last, in place of input and hidden
  // Of a thread's sums with 64 channels of 16 bits, those that wait in shared memory until they are added
  // to: there are not enough registers for all.
  static constexpr int kParked = kMatrices * K == 12 ? 3 : 0;
  // Shared memory in bytes: of the projection, of attention's sums, and of the gated network.
  static constexpr int bytes_ungated() {
    return sizeof(T) * (kInputPixels * kInputStride + kHalo * kHiddenStride);
  }
  static constexpr int bytes_with_sums() {
    return bytes_ungated() + sizeof(T) * kPixels * kQueryKeyStride;
  }
  static constexpr int bytes() {
    return bytes_ungated() + sizeof(T) * kGroups * kGroup + kParked * kThreads * sizeof(MatrixC);
  }

  // Of all images' tiles number `tile`.
  __device__ Block(const FusedFeedforward& f, unsigned tile) {
    static_assert(bytes() <= 99 * 1024);  // what a block may have from compute capability 8.0 on
    static_assert(sizeof(float) * kPixels * kSumStride <= bytes_ungated());
    const unsigned row = tile / f.across;
    image = row / f.down;
    height = f.H;
    width = f.W;
    y = static_cast<int>(row % f.down) * kHeight;
    x = static_cast<int>(tile % f.across) * kTileWidth;
    sums = shared_memory();
    input = reinterpret_cast<T*>(sums);
    hidden = input + kInputPixels * kInputStride;
    gated = query_key = hidden + kHalo * kHiddenStride;
    parked = reinterpret_cast<float*>(gated + kGroups * kGroup);
  }

  __device__ void park(const MatrixC (&sums)[kMatrices][K]) const {
    unroll<kParked>([&](auto i) { put_floats(parked_by_me(i.value), sums[2][i.value].numbers); });
  }
  __device__ void fetch_parked(MatrixC (&sums)[kMatrices][K]) const {
    unroll<kParked>([&](auto i) {
      unpack<float, 4>(get_packed<float, 4>(parked_by_me(i.value)), sums[2][i.value].numbers);
    });
  }
  __device__ float* parked_by_me(int i) const {
    return parked + 4 * (kThreads * i + thread_here());
  }

  // Of the tile with its ring, whether a pixel is in the image.
  __device__ bool inside(unsigned pixel) const {
    const unsigned row = y - 1 + pixel / kHaloWidth, column = x - 1 + pixel % kHaloWidth;
    return pixel < kHalo && row < static_cast<unsigned>(height) &&
           column < static_cast<unsigned>(width);
  }
};

// Calls use(pixel, channel, aligned) for each piece of the channels of so many pixels: where they can be
// loaded at once all of a thread's together, so that they are on their way at the same time.
template <class T, int K, int PIXELS, class Use>
__device__ void for_pieces(bool aligned, Use&& use) {
  constexpr unsigned pieces = 16 * K / kPiece<T>, count = PIXELS * pieces;
  const unsigned thread = thread_here();
  if (aligned) {
    unroll<(count + kThreads - 1) / kThreads>([&](auto j) {
      const unsigned i = j.value * kThreads + thread;
      constexpr bool all = (decltype(j)::value + 1) * kThreads <= count;
      if (all || i < count) use(i / pieces, i % pieces * kPiece<T>, std::true_type{});
    });
  } else {
#pragma unroll 1
    for (unsigned i = thread; i < count; i += kThreads)
      use(i / pieces, i % pieces * kPiece<T>, std::false_type{});
  }
}

// x with its ring to shared memory; zeros for pixels outside the image, there and in `hidden`.
template <class B>
__device__ void load_input(const FusedFeedforward& f, const B& at) {
  using T = typename B::T;
  // Where the ring begins, which may be before the image.
  const T* first = static_cast<const T*>(f.x) + at.image * f.image + int64_t{at.y - 1} * f.row +
                   int64_t{at.x - 1} * f.column;
  for_pieces<T, B::K, B::kHalo>(f.aligned, [&](unsigned pixel, unsigned channel, auto aligned) {
    const bool inside = at.inside(pixel);
    const int row = pixel / kHaloWidth, column = pixel % kHaloWidth;
    const T* from = first + (row * f.row + column * f.column + static_cast<int>(channel));
    T* to = at.input + pixel * B::kInputStride + channel;
    if constexpr (aligned.value)
      copy_async<16>(to, from, inside);
    else
      unroll<kPiece<T>>([&](auto c) { to[c.value] = inside ? from[c.value] : T(0.f); });
  });
  const unsigned pixel = thread_here();
  const bool inside = at.inside(pixel);
  if (pixel < B::kHalo && !inside)
    unroll<2 * B::kChunk / kPiece<T>>([&](auto i) {
      reinterpret_cast<uint4*>(at.hidden + pixel * B::kHiddenStride)[i.value] = {};
    });
  await_copies();
  __syncthreads();
}

// Each thread one pixel, which lanes of its warp will read, or two threads where there are enough. Zeros
// stay zeros.
template <class B>
__device__ void normalise(const FusedFeedforward& f, const B& at) {
  using T = typename B::T;
  constexpr int kShares = kThreads / B::kInputPixels, C = B::C / kShares, N = kPiece<T>;
  const auto of_pixel = [](float mine) {
    if constexpr (kShares == 2) mine += __shfl_xor_sync(~0u, mine, 1);
    return mine;
  };
  if constexpr (kShares * B::kInputPixels < kThreads)
    if (thread_here() >= B::kInputPixels) return;  // as all of its warp
  T* pixel = at.input + thread_here() / kShares * B::kInputStride + thread_here() % kShares * C;
  float v[C / N][N], sum = 0.f, squares = 0.f;
  unroll<C / N>([&](auto i) { unpack<T, N>(get_packed<T, N>(pixel + N * i.value), v[i.value]); });
  unroll<C>([&](auto c) { sum += v[c.value / N][c.value % N]; });
  const float mean = of_pixel(sum) * (1.f / B::C);
  unroll<C>([&](auto c) {
    float& value = v[c.value / N][c.value % N];
    value -= mean;
    squares += value * value;
  });
  const float scale = rsqrtf(of_pixel(squares) * (1.f / B::C) + f.eps);
  unroll<C>([&](auto c) { v[c.value / N][c.value % N] *= scale; });
  unroll<C / N>([&](auto i) {
    *reinterpret_cast<uint4*>(pixel + N * i.value) = pack<T, N>(v[i.value]).word;
  });
  kShares == 2 ? __syncthreads() : __syncwarp();
}

}  // namespace moce
#endif
