// A block of fused_feedforward_kernel.cu: its tile, its shared memory, and how x comes there.
#pragma once

#include <type_traits>

#include "copy_async.h"
#include "fused_feedforward_kernel.h"
#include "tensor_cores.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

constexpr int kThreads = 256;
constexpr int kHaloWidth = kTileWidth + 2, kHalo = kHaloWidth * (kTileHeight + 2);
constexpr int kPixels = kTileWidth * kTileHeight;
// What a thread convolves: two channels of kColumns columns of kRows rows, the upper or the lower ones.
constexpr int kColumns = 2, kRows = kTileHeight / 2;
static_assert(kThreads == kChunk / 2 * (kTileWidth / kColumns) * 2);
static_assert(kHalo <= kThreads);

// Strides in elements from one pixel to the next, such that lanes meet different banks.
constexpr int input_stride(int C) { return C + 8; }
constexpr int kHiddenStride = 2 * kChunk + 8;  // a, then b
constexpr int kGatedStride = kChunk + 8;
constexpr int sum_stride(int C) { return C + 8; }
// Where the gated pixels of the lower rows begin.
constexpr int kLowerHalf = kPixels / 2 * kGatedStride + 32;

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

// A block's place, and its shared memory.
template <class T, int K>
struct Block {
  static constexpr int C = 16 * K;
  int64_t image;
  int height, width, y, x;  // of the image, and of the tile's first pixel
  T* input;                 // (kThreads, input_stride(C)): the pixels with their ring, and four unused
  T* hidden;                // (kHalo, kHiddenStride)
  T* gated;                 // (kPixels, kGatedStride), the lower rows from kLowerHalf on
  float* parked;            // (kParked, kThreads, 4)
  float* sums;              // (kPixels, sum_stride(C)): at last, in place of input and hidden
  // Of a thread's sums with 64 channels, those that wait in shared memory until they are added to: there
  // are not enough registers for all.
  static constexpr int kParked = K == 4 ? 3 : 0;
  // Shared memory without and with what only the gated network needs.
  static constexpr int bytes_ungated() {
    return sizeof(T) * (kThreads * input_stride(C) + kHalo * kHiddenStride);
  }
  static constexpr int bytes() {
    return bytes_ungated() + sizeof(T) * (kLowerHalf + kPixels / 2 * kGatedStride) +
           kParked * kThreads * sizeof(MatrixC);
  }

  __device__ Block(const FusedFeedforward& f) {
    static_assert(bytes() <= 99 * 1024);  // what a block may have from compute capability 8.0 on
    static_assert(sizeof(float) * kPixels * sum_stride(C) <= bytes_ungated());
    const unsigned block = block_here(), row = block / f.across;
    image = row / f.down;
    height = f.H;
    width = f.W;
    y = static_cast<int>(row % f.down) * kTileHeight;
    x = static_cast<int>(block % f.across) * kTileWidth;
    sums = shared_memory();
    input = reinterpret_cast<T*>(sums);
    hidden = input + kThreads * input_stride(C);
    gated = hidden + kHalo * kHiddenStride;
    parked = reinterpret_cast<float*>(gated + kLowerHalf + kPixels / 2 * kGatedStride);
  }

  __device__ void park(const MatrixC (&sums)[3][K]) const {
    unroll<kParked>([&](auto i) { put_floats(parked_by_me(i.value), sums[2][i.value].numbers); });
  }
  __device__ void fetch_parked(MatrixC (&sums)[3][K]) const {
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

// Calls use(pixel, channel, aligned) for each eight channels of so many pixels: where they can be loaded
// at once all of a thread's together, so that they are on their way at the same time.
template <int K, int PIXELS, class Use>
__device__ void for_pieces(bool aligned, Use&& use) {
  constexpr unsigned pieces = 2 * K, count = PIXELS * pieces;
  const unsigned thread = thread_here();
  if (aligned) {
    unroll<(count + kThreads - 1) / kThreads>([&](auto j) {
      const unsigned i = j.value * kThreads + thread;
      constexpr bool all = (decltype(j)::value + 1) * kThreads <= count;
      if (all || i < count) use(i / pieces, i % pieces * 8, std::true_type{});
    });
  } else {
#pragma unroll 1
    for (unsigned i = thread; i < count; i += kThreads)
      use(i / pieces, i % pieces * 8, std::false_type{});
  }
}

// x with its ring to shared memory; zeros for pixels outside the image, there and in `hidden`.
template <class T, int K>
__device__ void load_input(const FusedFeedforward& f, const Block<T, K>& at) {
  // Where the ring begins, which may be before the image.
  const T* first = static_cast<const T*>(f.x) + at.image * f.image + int64_t{at.y - 1} * f.row +
                   int64_t{at.x - 1} * f.column;
  for_pieces<K, kHalo>(f.aligned, [&](unsigned pixel, unsigned channel, auto aligned) {
    const bool inside = at.inside(pixel);
    const int row = pixel / kHaloWidth, column = pixel % kHaloWidth;
    const T* from = first + (row * f.row + column * f.column + static_cast<int>(channel));
    T* to = at.input + pixel * input_stride(16 * K) + channel;
    if constexpr (aligned.value)
      copy_async<16>(to, from, inside);
    else
      unroll<8>([&](auto c) { to[c.value] = inside ? from[c.value] : T(0.f); });
  });
  const unsigned pixel = thread_here();
  const bool inside = at.inside(pixel);
  if (pixel < kHalo && !inside)
    unroll<2 * kChunk / 8>([&](auto i) {
      reinterpret_cast<uint4*>(at.hidden + pixel * kHiddenStride)[i.value] = {};
    });
  await_copies();
  __syncthreads();
}

// Each thread one pixel, which lanes of its warp will read. Zeros stay zeros.
template <class T, int K>
__device__ void normalise(const FusedFeedforward& f, const Block<T, K>& at) {
  constexpr int C = 16 * K;
  T* pixel = at.input + thread_here() * input_stride(C);
  float v[C / 8][8], sum = 0.f, squares = 0.f;
  unroll<C / 8>([&](auto i) { unpack<T, 8>(get_packed<T, 8>(pixel + 8 * i.value), v[i.value]); });
  unroll<C>([&](auto c) { sum += v[c.value / 8][c.value % 8]; });
  unroll<C>([&](auto c) {
    float& value = v[c.value / 8][c.value % 8];
    value -= sum * (1.f / C);
    squares += value * value;
  });
  const float scale = rsqrtf(squares * (1.f / C) + f.eps);
  unroll<C>([&](auto c) { v[c.value / 8][c.value % 8] *= scale; });
  unroll<C / 8>([&](auto i) {
    *reinterpret_cast<uint4*>(pixel + 8 * i.value) = pack<T, 8>(v[i.value]).word;
  });
  __syncwarp();
}

}  // namespace moce
#endif
