// Kernels of fused_feedforward for one element type of 16 bits, MOCE_SCALAR:
// out = x + W_o (GELU(a) b) + bias, where a, b = DW3x3(W_i n(x) + bias) are halves of the channels and n
// normalises each pixel over its channels, or does nothing.
//
// x and out (B, C, H, W), channels-last; W_i (2 N, C), DW (2 N, 3, 3), W_o (C, N). x is read and out
// written: 2 C numbers are moved for each pixel, where the hidden features would be 6 N more.
//
// A block computes a tile of 16 x 12 pixels. It has those and a ring of one around them, 252, normalised
// in shared memory, and takes 32 channels of a and the same of b at a time:
//   1. W_i n(x) on tensor cores, each warp 32 of the pixels, to shared memory in 16 bits. Pixels outside
//      the image are zeros there from the beginning, and stay so: the convolution's padding.
//   2. Depthwise convolution and gate, each thread two channels of two columns of six rows, to shared
//      memory in 16 bits.
//   3. W_o times that on tensor cores, added to what each warp keeps in registers: 48 pixels, and half of
//      the channels.
// At last the sums go through shared memory to where neighbouring lanes have neighbouring channels.
//
// `projection_kernel` ends with the depthwise convolution: out (B, N, H, W) = DW3x3(W_i n(x) + bias), of
// 64 channels at a time. C + N numbers are moved for each pixel, where the features between would be
// 2 N more.

#include "fused_feedforward_kernel.h"

#include "depthwise_rows.h"
#include "fused_feedforward_block.h"
#include "fused_feedforward_parameters.h"
#include "gelu.h"

namespace moce {
namespace {

// Of a chunk. Its address is computed anew each time, as those in fused_feedforward_block.h.
template <int K>
__device__ const Parameters<K>& parameters(const FusedFeedforward& f, unsigned chunk) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(chunk));
#endif
  return static_cast<const Parameters<K>*>(f.packed)[chunk];
}

template <class T>
__device__ void put_two(T* to, float a, float b) {
  *reinterpret_cast<unsigned*>(to) = word_of<T>(a, b);
}

// Of the 32 pixels of a warp's step 1, of which a lane stores every eighth from its g on, a bit for each
// of them: whether it is in the image.
template <class T, int K>
__device__ unsigned stored_by_lane(const Block<T, K>& at) {
  const unsigned thread = thread_here(), first = thread / 32 * 32 + thread % 32 / 4;
  unsigned inside = 0;
  unroll<4>([&](auto i) { inside |= unsigned{at.inside(first + 8 * i.value)} << i.value; });
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(inside));  // one register and not four
#endif
  return inside;
}

// Step 1, for 32 pixels a warp, of which `inside` is what `stored_by_lane` gives.
template <class T, int K>
__device__ void project_in(const Parameters<K>& p, const Block<T, K>& at, unsigned inside) {
  constexpr int stride = input_stride(16 * K);
  const unsigned thread = thread_here(), first = thread / 32 * 32;
  const unsigned lane = thread % 32, g = lane / 4, t = lane % 4;
  unroll<2>([&](auto half) {
    MatrixC sums[2][4];
    unroll<4>([&](auto n) {
      const auto bias = load_packed<float, 4>(p.in_bias[half.value][n.value][t]);
      unpack<float, 4>(bias, sums[0][n.value].numbers);
      sums[1][n.value] = sums[0][n.value];
    });
    unroll<K>([&](auto k) {
      MatrixA a[2];
      unroll<2>([&](auto m) {
        a[m.value] = load_matrix(at.input + (first + 16 * m.value) * stride + 16 * k.value, stride);
      });
      unroll<2>([&](auto pair) {
        const uint4 b = __ldg(&p.project_in[half.value][pair.value][k.value][lane]);
        unroll<2>([&](auto m) {
          MatrixC(&sum)[4] = sums[m.value];
          constexpr int n = 2 * decltype(pair)::value;
          sum[n] = multiply_add<T>(a[m.value], {b.x, b.y}, sum[n]);
          sum[n + 1] = multiply_add<T>(a[m.value], {b.z, b.w}, sum[n + 1]);
        });
      });
    });
    T* to = at.hidden + (first + g) * kHiddenStride + half.value * kChunk + 2 * t;
    unroll<4>([&](auto mi) {
      constexpr int m = decltype(mi)::value / 2, i = decltype(mi)::value % 2;
      if (inside >> mi.value & 1) unroll<4>([&](auto n) {
        const float(&sum)[4] = sums[m][n.value].numbers;
        put_two(to + (16 * m + 8 * i) * kHiddenStride + 8 * n.value, sum[2 * i], sum[2 * i + 1]);
      });
    });
  });
}

// kRows rows of kColumns results of two channels of one half, from the first pixel of their ring on:
// each is handed to use(y, row).
template <class T, class Use>
__device__ void convolve(const T* from, const float* taps, const float* bias, Use&& use) {
  float tap[9][2], of_bias[2];
  unroll<9>([&](auto i) {
    unpack<float, 2>(load_packed<float, 2>(taps + i.value * kChunk), tap[i.value]);
  });
  unpack<float, 2>(load_packed<float, 2>(bias), of_bias);
  SlidingRows<3, kColumns, 2> rows(of_bias);
  unroll<kRows + 2>([&](auto y) {
    float pixel[kColumns + 2][2], row[kColumns][2];
    unroll<kColumns + 2>([&](auto x) {
      const T* at = from + (y.value * kHaloWidth + x.value) * kHiddenStride;
      unpack<T, 2>(get_packed<T, 2>(at), pixel[x.value]);
    });
    rows.add(pixel, tap, row);
    if constexpr (y.value >= 2) use(Int<y.value - 2>{}, row);
  });
}

// Step 2: a thread's two channels are those of its lane among 16, the upper or the lower rows those of
// its half of the warp, the columns those of its warp.
template <class T, int K>
__device__ void gate(const Parameters<K>& p, const Block<T, K>& at) {
  const unsigned thread = thread_here(), channel = thread % 16 * 2, lower = thread / 16 % 2;
  const unsigned column = thread / 32 * kColumns;
  const T* from = at.hidden + (lower * kRows * kHaloWidth + column) * kHiddenStride + channel;
  T* to = at.gated + lower * kLowerHalf + column * kGatedStride + channel;
  float a[kRows][kColumns][2];
  convolve(from, &p.taps[0][0][channel], &p.depthwise_bias[0][channel],
           [&](auto y, const float(&row)[kColumns][2]) {
             unroll<kColumns * 2>([&](auto i) {
               constexpr int x = decltype(i)::value / 2, c = decltype(i)::value % 2;
               float slope;
               a[y.value][x][c] = gelu<T>(row[x][c], slope);
             });
           });
  convolve(from + kChunk, &p.taps[1][0][channel], &p.depthwise_bias[1][channel],
           [&](auto y, const float(&row)[kColumns][2]) {
             unroll<kColumns>([&](auto x) {
               const float(&of_a)[2] = a[y.value][x.value];
               put_two(to + (y.value * kTileWidth + x.value) * kGatedStride,
                       of_a[0] * row[x.value][0], of_a[1] * row[x.value][1]);
             });
           });
}

// Step 3: a warp's three matrices of 16 pixels begin at its quarter of them, its channels at its half.
template <class T, int K>
__device__ void project_out(const Parameters<K>& p, const Block<T, K>& at, MatrixC (&sums)[3][K]) {
  const unsigned thread = thread_here();
  const unsigned lane = thread % 32, quarter = thread / 32 % 4, half = thread / 128;
  const T* from = at.gated + quarter / 2 * kLowerHalf + quarter % 2 * 48 * kGatedStride;
  uint4 b[K];
  unroll<K>([&](auto n) { b[n.value] = __ldg(&p.project_out[half * K + n.value][lane]); });
  unroll<3>([&](auto m) {
    unroll<2>([&](auto k) {
      const MatrixA a =
          load_matrix(from + 16 * m.value * kGatedStride + 16 * k.value, kGatedStride);
      unroll<K>([&](auto n) {
        MatrixC& sum = sums[m.value][n.value];
        const uint4& w = b[n.value];
        sum = multiply_add<T>(a, k.value ? MatrixB{w.z, w.w} : MatrixB{w.x, w.y}, sum);
      });
    });
  });
}

// The sums with the bias and x to `out`, eight channels of a pixel at a time.
template <class T, int K>
__device__ void finish(const FusedFeedforward& f, const MatrixC (&sums)[3][K]) {
  const Block<T, K> at(f);
  constexpr int stride = sum_stride(16 * K);
  const unsigned thread = thread_here();
  const unsigned lane = thread % 32, quarter = thread / 32 % 4, half = thread / 128;
  unroll<K>([&](auto n) {
    const unsigned channel = (half * K + n.value) * 8 + lane % 4 * 2;
    float* to = at.sums + (quarter * 48 + lane / 4) * stride + channel;
    float bias[2] = {};
    if (f.out_bias)
      unroll<2>([&](auto c) { bias[c.value] = __ldg(f.out_bias + channel + c.value); });
    unroll<6>([&](auto i) {
      const float* sum = sums[i.value / 2][n.value].numbers + i.value % 2 * 2;
      put_floats(to + 8 * i.value * stride, {sum[0] + bias[0], sum[1] + bias[1]});
    });
  });
  __syncthreads();
  const T* x = static_cast<const T*>(f.x) + at.image * f.image + int64_t{at.y} * f.row +
               int64_t{at.x} * f.column;
  T* out = static_cast<T*>(f.out) +
           ((at.image * at.height + at.y) * at.width + at.x) * int64_t{16 * K};
  for_pieces<K, kPixels>(f.aligned, [&](unsigned pixel, unsigned channel_, auto aligned) {
    const int row = pixel / kTileWidth, column = pixel % kTileWidth, channel = channel_;
    if (at.y + row >= at.height || at.x + column >= at.width) return;
    const T* from = x + (row * f.row + column * f.column + channel);
    float before[8], total[8];
    if constexpr (aligned.value)
      unpack<T, 8>(load_packed<T, 8>(from), before);
    else
      unroll<8>([&](auto c) { before[c.value] = static_cast<float>(from[c.value]); });
    const float* sum = at.sums + pixel * stride + channel;
    unroll<8>([&](auto c) { total[c.value] = sum[c.value] + before[c.value]; });
    store_packed<T, 8>(out + ((row * at.width + column) * (16 * K) + channel), total);
  });
}

// Instead of steps 2 and 3: the convolution of both halves to `out`, channels from `first` on.
template <class T, int K>
__device__ void convolve_to_out(const FusedFeedforward& f, const Parameters<K>& p,
                                const Block<T, K>& at, int first) {
  const unsigned thread = thread_here(), channel = thread % 16 * 2;
  const int row = thread / 16 % 2 * kRows, column = thread / 32 * kColumns;
  const T* from = at.hidden + (row * kHaloWidth + column) * kHiddenStride + channel;
  const int rows = at.height - at.y - row, columns = at.width - at.x - column;
  T* to = static_cast<T*>(f.out) + first + channel +
          ((at.image * at.height + at.y + row) * at.width + at.x + column) * f.N;
  unroll<2>([&](auto half) {
    if (first + half.value * kChunk + static_cast<int>(channel) >= f.N) return;
    convolve(from + half.value * kChunk, &p.taps[half.value][0][channel],
             &p.depthwise_bias[half.value][channel],
             [&](auto y, const float(&row_of)[kColumns][2]) {
               unroll<kColumns>([&](auto x) {
                 if (y.value < rows && x.value < columns)
                   put_two(to + half.value * kChunk + (y.value * at.width + x.value) * f.N,
                           row_of[x.value][0], row_of[x.value][1]);
               });
             });
  });
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 2) projection_kernel(FusedFeedforward f) {
  const Block<T, K> at(f);
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    project_in(parameters<K>(f, chunk), at, inside);
    __syncthreads();
    convolve_to_out(f, parameters<K>(f, chunk), at, static_cast<int>(chunk) * 2 * kChunk);
    __syncthreads();
  }
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 2) feedforward_kernel(FusedFeedforward f) {
  const Block<T, K> at(f);
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
  MatrixC sums[3][K] = {};
  at.park(sums);
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    project_in(parameters<K>(f, chunk), at, inside);
    __syncthreads();
    gate(parameters<K>(f, chunk), at);
    __syncthreads();
    at.fetch_parked(sums);
    project_out(parameters<K>(f, chunk), at, sums);
    at.park(sums);
  }
  at.fetch_parked(sums);
  finish<T>(f, sums);
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads) pack_kernel(FusedFeedforward f) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < int64_t{f.chunks} * chunk_words(16 * K))
    static_cast<unsigned*>(f.packed)[i] = packed_word<T, K>(f, i);
}

// --- launches ------------------------------------------------------------------------------------

// Calls use(K) with the constant C / 16.
template <class Use>
void with_channels(const FusedFeedforward& f, Use&& use) {
  switch (f.C / 16) {
    case 1: return use(Int<1>{});
    case 2: return use(Int<2>{});
    case 3: return use(Int<3>{});
    default: return use(Int<4>{});
  }
}

template <class T>
void pack_parameters(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels(f, [&](auto k) {
    const int64_t words = int64_t{f.chunks} * chunk_words(16 * k.value);
    launch(pack_kernel<T, k.value>, narrow(tiles_of(words, kThreads)), kThreads, 0, stream, f);
  });
}

template <class T>
void run(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels(f, [&](auto k) {
    launch(feedforward_kernel<T, k.value>, narrow(f.B * f.down * f.across), kThreads,
           Block<T, k.value>::bytes(), stream, f);
  });
}

template <class T>
void run_projection(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels(f, [&](auto k) {
    launch(projection_kernel<T, k.value>, narrow(f.B * f.down * f.across), kThreads,
           Block<T, k.value>::bytes_ungated(), stream, f);
  });
}

template <class T>
constexpr FusedFeedforwardKernel table() {
  if constexpr (sizeof(T) == 2)
    return {pack_parameters<T>, run<T>, run_projection<T>};
  else
    return {};
}

}  // namespace

extern const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward);
const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward) = table<MOCE_SCALAR>();

}  // namespace moce
