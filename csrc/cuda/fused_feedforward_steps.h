// Steps that the kernels of fused_feedforward_kernel.cu and fused_projection_kernel.cu share: the 1x1
// convolution on tensor cores, and the depthwise convolution.
#pragma once

#include "depthwise_rows.h"
#include "fused_feedforward_block.h"
#include "fused_feedforward_parameters.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

// Of a chunk. Its address is computed anew each time, as those in fused_feedforward_block.h.
template <class B>
using ParametersOf = Parameters<typename B::T, B::K>;
template <class B>
__device__ const ParametersOf<B>& parameters(const FusedFeedforward& f, unsigned chunk) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(chunk));
#endif
  return static_cast<const ParametersOf<B>*>(f.packed)[chunk];
}

template <class T>
__device__ void put_two(T* to, float a, float b) {
  *reinterpret_cast<Word<2 * sizeof(T)>*>(to) = pack<T, 2>({a, b}).word;
}

__device__ inline void add_to(MatrixC& sum, const MatrixC& more) {
  unroll<4>([&](auto i) { sum.numbers[i.value] += more.numbers[i.value]; });
}

// Of the 32 pixels of a warp's step 1, of which a lane stores every eighth from its g on, a bit for each
// of them: whether it is in the image.
template <class B>
__device__ unsigned stored_by_lane(const B& at) {
  const unsigned thread = thread_here(), first = thread / 32 * 32 + thread % 32 / 4;
  unsigned inside = 0;
  unroll<4>([&](auto i) { inside |= unsigned{at.inside(first + 8 * i.value)} << i.value; });
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(inside));  // one register and not four
#endif
  return inside;
}

// Step 1, for 32 pixels a warp, of which `inside` is what `stored_by_lane` gives, in P products, 8 TILES
// of the chunk's channels at a time, of which `channels` are there.
template <class B, int P, int TILES>
__device__ void project_in(const ParametersOf<B>& p, const B& at, unsigned inside, int channels) {
  using T = typename B::T;
  const unsigned thread = thread_here(), first = thread / 32 * 32;
  const unsigned lane = thread % 32, g = lane / 4, t = lane % 4;
  if constexpr (B::kInputPixels < kThreads)
    if (first >= B::kInputPixels) return;
  unroll<2 * B::kChunk / 8 / TILES>([&](auto part) {
    if (part.value && 8 * TILES * part.value >= channels) return;
    MatrixC sums[2][TILES];
    [[maybe_unused]] MatrixC rest[2][TILES] = {};
    unroll<TILES>([&](auto n) {
      const auto bias = load_packed<float, 4>(p.in_bias[TILES * part.value + n.value][t]);
      unpack<float, 4>(bias, sums[0][n.value].numbers);
      sums[1][n.value] = sums[0][n.value];
    });
#pragma unroll
    for (int k = 0; k < B::C / kDepth<T>; k++) {
      Parts<P> a[2];
      unroll<2>([&](auto m) {
        a[m.value] = load_parts<T, P>(
            at.input + (first + 16 * m.value) * B::kInputStride + kDepth<T> * k, B::kInputStride);
      });
      constexpr int together = kMatricesB<T>, loads = TILES / together;
      unroll<loads>([&](auto i) {
        const uint4 b = __ldg(&p.project_in[loads * part.value + i.value][k][lane]);
        unroll<2>([&](auto m) {
          unroll<together>([&](auto j) {
            constexpr int n = together * decltype(i)::value + decltype(j)::value;
            MatrixC& sum = sums[m.value][n];
            if constexpr (P == 3) rest[m.value][n] = add_rest(a[m.value], b, rest[m.value][n]);
            sum = add_product<T, j.value>(a[m.value], b, sum);
          });
        });
      });
    }
    if constexpr (P == 3) unroll<2 * TILES>([&](auto i) {
      add_to(sums[i.value / TILES][i.value % TILES], rest[i.value / TILES][i.value % TILES]);
    });
    T* to = at.hidden + (first + g) * B::kHiddenStride + 8 * TILES * part.value + 2 * t;
    unroll<4>([&](auto mi) {
      constexpr int m = decltype(mi)::value / 2, i = decltype(mi)::value % 2;
      if (inside >> mi.value & 1) unroll<TILES>([&](auto n) {
        const float(&sum)[4] = sums[m][n.value].numbers;
        put_two(to + (16 * m + 8 * i) * B::kHiddenStride + 8 * n.value, sum[2 * i], sum[2 * i + 1]);
      });
    });
  });
}

// What a thread convolves: two channels of kColumns columns of the rows of a group. Threads of a warp meet
// different banks: those of 16-bit elements are of two runs of columns, four columns apart, those of
// float32 of four.
struct Share {
  unsigned channel, group, column;
};
template <class T>
__device__ Share share_here() {
  const unsigned thread = thread_here();
  if constexpr (sizeof(T) == 2)
    return {thread % 16 * 2, thread / 128,
            (thread / 16 % 2 * 2 + thread / 32 % 2 + thread / 64 % 2 * 4) * kColumns};
  else
    return {thread % 8 * 2, thread / 64, thread / 8 % 8 * kColumns};
}

// A thread's results of one half, from the first pixel of their ring on: each row is handed to use(y, row).
template <class B, class Use>
__device__ void convolve(const typename B::T* from, const float* taps, const float* bias,
                         Use&& use) {
  using T = typename B::T;
  float tap[9][2], of_bias[2];
  unroll<9>([&](auto i) {
    unpack<float, 2>(load_packed<float, 2>(taps + i.value * B::kChunk), tap[i.value]);
  });
  unpack<float, 2>(load_packed<float, 2>(bias), of_bias);
  SlidingRows<3, kColumns, 2> rows(of_bias);
  unroll<B::kRows + 2>([&](auto y) {
    float pixel[kColumns + 2][2], row[kColumns][2];
    unroll<kColumns + 2>([&](auto x) {
      const T* at = from + (y.value * kHaloWidth + x.value) * B::kHiddenStride;
      unpack<T, 2>(get_packed<T, 2>(at), pixel[x.value]);
    });
    rows.add(pixel, tap, row);
    if constexpr (y.value >= 2) use(Int<y.value - 2>{}, row);
  });
}

// --- choices of a launch -------------------------------------------------------------------------

// Calls use(K) with the constant C / 16.
template <class T, class Use>
void with_channels(const FusedFeedforward& f, Use&& use) {
  if constexpr (sizeof(T) == 2) {
    if (f.C == 96) return use(Int<6>{});
    if (f.C == 128) return use(Int<8>{});
  }
  switch (f.C / 16) {
    case 1: return use(Int<1>{});
    case 2: return use(Int<2>{});
    case 3: return use(Int<3>{});
    default: return use(Int<4>{});
  }
}

// Calls use(K, P), P in how many products.
template <class T, class Use>
void with_channels_and_products(const FusedFeedforward& f, Use&& use) {
  with_channels<T>(f, [&](auto k) {
    if constexpr (sizeof(T) == 4)
      if (!f.tf32) return use(k, Int<3>{});
    use(k, Int<1>{});
  });
}

}  // namespace moce
#endif
