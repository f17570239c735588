// Kernels of fused_feedforward for one element type, MOCE_SCALAR:
// out = x + W_o (GELU(a) b) + bias, where a, b = DW3x3(W_i n(x) + bias) are halves of the channels and n
// normalises each pixel over its channels, or does nothing.
//
// x and out (B, C, H, W), channels-last; W_i (2 N, C), DW (2 N, 3, 3), W_o (C, N). x is read and out
// written: 2 C numbers are moved for each pixel, where the hidden features would be 6 N more.
//
// A block computes a tile of 16 x 12 pixels. It has those and a ring of one around them, 252, normalised
// in shared memory, and takes 32 channels of a and the same of b at a time:
//   1. W_i n(x) on tensor cores, each warp 32 of the pixels, to shared memory in x's type. Pixels outside
//      the image are zeros there from the beginning, and stay so: the convolution's padding.
//   2. Depthwise convolution and gate, each thread two channels of two columns of six rows, to shared
//      memory in x's type.
//   3. W_o times that on tensor cores, added to what each warp keeps in registers: 48 pixels, and half of
//      the channels.
// At last the sums go through shared memory to where neighbouring lanes have neighbouring channels.
// In float32, of which shared memory holds half as many, 16 channels of a and of b are taken at a time,
// three rows a thread, and with more than 32 channels of x a tile is 16 x 8 and a thread has two rows.
//
// `projection_kernel` ends with the depthwise convolution: out (B, N, H, W) = DW3x3(W_i n(x) + bias), of
// as many channels at a time. C + N numbers are moved for each pixel, where the features between would
// be 2 N more.
//
// Products of float32 are P of TF32, three or one: see tensor_cores.h.

#include "fused_feedforward_kernel.h"

#include "depthwise_rows.h"
#include "fused_feedforward_block.h"
#include "fused_feedforward_parameters.h"
#include "gelu.h"

namespace moce {
namespace {

// Of a chunk. Its address is computed anew each time, as those in fused_feedforward_block.h.
template <class T, int K>
__device__ const Parameters<T, K>& parameters(const FusedFeedforward& f, unsigned chunk) {
#ifndef MOCE_EMULATED
  asm volatile("" : "+r"(chunk));
#endif
  return static_cast<const Parameters<T, K>*>(f.packed)[chunk];
}

template <class T>
__device__ void put_two(T* to, float a, float b) {
  *reinterpret_cast<Word<2 * sizeof(T)>*>(to) = pack<T, 2>({a, b}).word;
}

[[maybe_unused]] __device__ void add_to(MatrixC& sum, const MatrixC& more) {
  unroll<4>([&](auto i) { sum.numbers[i.value] += more.numbers[i.value]; });
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

// Step 1, for 32 pixels a warp, of which `inside` is what `stored_by_lane` gives, in P products, 8 TILES
// of the chunk's channels at a time.
template <class T, int K, int P, int TILES>
__device__ void project_in(const Parameters<T, K>& p, const Block<T, K>& at, unsigned inside) {
  using B = Block<T, K>;
  const unsigned thread = thread_here(), first = thread / 32 * 32;
  const unsigned lane = thread % 32, g = lane / 4, t = lane % 4;
  if constexpr (B::kInputPixels < kThreads)
    if (first >= B::kInputPixels) return;
  unroll<2 * B::kChunk / 8 / TILES>([&](auto part) {
    MatrixC sums[2][TILES];
    [[maybe_unused]] MatrixC rest[2][TILES] = {};
    unroll<TILES>([&](auto n) {
      const auto bias = load_packed<float, 4>(p.in_bias[TILES * part.value + n.value][t]);
      unpack<float, 4>(bias, sums[0][n.value].numbers);
      sums[1][n.value] = sums[0][n.value];
    });
    unroll<B::C / kDepth<T>>([&](auto k) {
      Parts<P> a[2];
      unroll<2>([&](auto m) {
        a[m.value] = load_parts<T, P>(
            at.input + (first + 16 * m.value) * B::kInputStride + kDepth<T> * k.value,
            B::kInputStride);
      });
      constexpr int together = kMatricesB<T>, loads = TILES / together;
      unroll<loads>([&](auto i) {
        const uint4 b = __ldg(&p.project_in[loads * part.value + i.value][k.value][lane]);
        unroll<2>([&](auto m) {
          unroll<together>([&](auto j) {
            constexpr int n = together * decltype(i)::value + decltype(j)::value;
            MatrixC& sum = sums[m.value][n];
            if constexpr (P == 3) rest[m.value][n] = add_rest(a[m.value], b, rest[m.value][n]);
            sum = add_product<T, j.value>(a[m.value], b, sum);
          });
        });
      });
    });
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
// different banks: those of 16-bit elements are of two groups, those of float32 of four runs of columns.
struct Share {
  unsigned channel, group, column;
};
template <class T>
__device__ Share share_here() {
  const unsigned thread = thread_here();
  if constexpr (sizeof(T) == 2)
    return {thread % 16 * 2, thread / 16 % 2, thread / 32 * kColumns};
  else
    return {thread % 8 * 2, thread / 64, thread / 8 % 8 * kColumns};
}

// A thread's results of one half, from the first pixel of their ring on: each row is handed to use(y, row).
template <class T, int K, class Use>
__device__ void convolve(const T* from, const float* taps, const float* bias, Use&& use) {
  using B = Block<T, K>;
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

// Step 2.
template <class T, int K>
__device__ void gate(const Parameters<T, K>& p, const Block<T, K>& at) {
  using B = Block<T, K>;
  const auto [channel, group, column] = share_here<T>();
  const T* from =
      at.hidden + (group * B::kRows * kHaloWidth + column) * B::kHiddenStride + channel;
  T* to = at.gated + group * B::kGroup + column * B::kGatedStride + channel;
  float a[B::kRows][kColumns][2];
  convolve<T, K>(from, &p.taps[0][0][channel], &p.depthwise_bias[0][channel],
                 [&](auto y, const float(&row)[kColumns][2]) {
                   unroll<kColumns * 2>([&](auto i) {
                     constexpr int x = decltype(i)::value / 2, c = decltype(i)::value % 2;
                     float slope;
                     a[y.value][x][c] = gelu<T>(row[x][c], slope);
                   });
                 });
  convolve<T, K>(from + B::kChunk, &p.taps[1][0][channel], &p.depthwise_bias[1][channel],
                 [&](auto y, const float(&row)[kColumns][2]) {
                   unroll<kColumns>([&](auto x) {
                     const float(&of_a)[2] = a[y.value][x.value];
                     put_two(to + (y.value * kTileWidth + x.value) * B::kGatedStride,
                             of_a[0] * row[x.value][0], of_a[1] * row[x.value][1]);
                   });
                 });
}

// Step 3, in P products: a warp's matrices of 16 pixels begin at its quarter of them, its channels at its
// half.
template <class T, int K, int P>
__device__ void project_out(const Parameters<T, K>& p, const Block<T, K>& at,
                            MatrixC (&sums)[Block<T, K>::kMatrices][K]) {
  using B = Block<T, K>;
  constexpr int together = kMatricesB<T>, stride = B::kGatedStride;
  constexpr unsigned quarters = 4 / B::kGroups;  // of a group
  const unsigned thread = thread_here();
  const unsigned lane = thread % 32, quarter = thread / 32 % 4, half = thread / 128;
  const T* from = at.gated + quarter / quarters * B::kGroup +
                  quarter % quarters * (B::kMatrices * 16 * stride);
  uint4 b[K][2 / together];
  unroll<K>([&](auto n) {
    unroll<2 / together>([&](auto i) {
      b[n.value][i.value] = __ldg(&p.project_out[half * K + n.value][i.value][lane]);
    });
  });
  unroll<B::kMatrices>([&](auto m) {
    MatrixC alone[K] = {};  // of three products: short sums, of which little is cut off
    MatrixC(&found)[K] = P == 3 ? alone : sums[m.value];
    unroll<2>([&](auto k) {
      const Parts<P> a =
          load_parts<T, P>(from + 16 * m.value * stride + kDepth<T> * k.value, stride);
      unroll<K>([&](auto n) {
        constexpr int load = decltype(k)::value / together, matrix = decltype(k)::value % together;
        if constexpr (P == 3) found[n.value] = add_rest(a, b[n.value][load], found[n.value]);
        found[n.value] = add_product<T, matrix>(a, b[n.value][load], found[n.value]);
      });
    });
    if constexpr (P == 3)
      unroll<K>([&](auto n) { add_to(sums[m.value][n.value], alone[n.value]); });
  });
}

// The sums with the bias and x to `out`, 16 bytes of a pixel at a time.
template <class T, int K>
__device__ void finish(const FusedFeedforward& f,
                       const MatrixC (&sums)[Block<T, K>::kMatrices][K]) {
  using B = Block<T, K>;
  const B at(f);
  constexpr int stride = B::kSumStride, N = kPiece<T>;
  const unsigned thread = thread_here();
  const unsigned lane = thread % 32, quarter = thread / 32 % 4, half = thread / 128;
  unroll<K>([&](auto n) {
    const unsigned channel = (half * K + n.value) * 8 + lane % 4 * 2;
    float* to = at.sums + (quarter * (B::kMatrices * 16) + lane / 4) * stride + channel;
    float bias[2] = {};
    if (f.out_bias)
      unroll<2>([&](auto c) { bias[c.value] = __ldg(f.out_bias + channel + c.value); });
    unroll<2 * B::kMatrices>([&](auto i) {
      const float* sum = sums[i.value / 2][n.value].numbers + i.value % 2 * 2;
      put_floats(to + 8 * i.value * stride, {sum[0] + bias[0], sum[1] + bias[1]});
    });
  });
  __syncthreads();
  const T* x = static_cast<const T*>(f.x) + at.image * f.image + int64_t{at.y} * f.row +
               int64_t{at.x} * f.column;
  T* out = static_cast<T*>(f.out) +
           ((at.image * at.height + at.y) * at.width + at.x) * int64_t{16 * K};
  for_pieces<T, K, B::kPixels>(f.aligned, [&](unsigned pixel, unsigned channel_, auto aligned) {
    const int row = pixel / kTileWidth, column = pixel % kTileWidth, channel = channel_;
    if (at.y + row >= at.height || at.x + column >= at.width) return;
    const T* from = x + (row * f.row + column * f.column + channel);
    float before[N], total[N];
    if constexpr (aligned.value)
      unpack<T, N>(load_packed<T, N>(from), before);
    else
      unroll<N>([&](auto c) { before[c.value] = static_cast<float>(from[c.value]); });
    const float* sum = at.sums + pixel * stride + channel;
    unroll<N>([&](auto c) { total[c.value] = sum[c.value] + before[c.value]; });
    store_packed<T, N>(out + ((row * at.width + column) * (16 * K) + channel), total);
  });
}

// Instead of steps 2 and 3: the convolution of both halves to `out`, channels from `first` on.
template <class T, int K>
__device__ void convolve_to_out(const FusedFeedforward& f, const Parameters<T, K>& p,
                                const Block<T, K>& at, int first) {
  using B = Block<T, K>;
  const auto [channel, group, column_] = share_here<T>();
  const int row = group * B::kRows, column = column_, first_of_two = first + channel;
  const T* from = at.hidden + (row * kHaloWidth + column) * B::kHiddenStride + channel;
  const int rows = at.height - at.y - row, columns = at.width - at.x - column;
  T* to = static_cast<T*>(f.out) + first_of_two +
          ((at.image * at.height + at.y + row) * at.width + at.x + column) * f.N;
  const float* taps = &p.taps[0][0][channel];
  const float* bias = &p.depthwise_bias[0][channel];
  unroll<2>([&](auto half) {
    constexpr int beyond = half.value * B::kChunk;
    if (first_of_two + beyond >= f.N) return;
    convolve<T, K>(from + beyond, taps + 9 * beyond, bias + beyond,
                   [&](auto y, const float(&row_of)[kColumns][2]) {
                     unroll<kColumns>([&](auto x) {
                       if (y.value < rows && x.value < columns)
                         put_two(to + beyond + (y.value * at.width + x.value) * f.N,
                                 row_of[x.value][0], row_of[x.value][1]);
                     });
                   });
  });
}

template <class T, int K, int P>
__global__ void __launch_bounds__(kThreads, 2) projection_kernel(FusedFeedforward f) {
  const Block<T, K> at(f);
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    project_in<T, K, P, 4>(parameters<T, K>(f, chunk), at, inside);
    __syncthreads();
    convolve_to_out(f, parameters<T, K>(f, chunk), at, static_cast<int>(chunk) * 2 * at.kChunk);
    __syncthreads();
  }
}

template <class T, int K, int P>
__global__ void __launch_bounds__(kThreads, 2) feedforward_kernel(FusedFeedforward f) {
  const Block<T, K> at(f);
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
  MatrixC sums[Block<T, K>::kMatrices][K] = {};
  at.park(sums);
  constexpr int tiles = sizeof(T) == 4 && (P == 3 || K == 4) ? 2 : 4;  // what registers are there for
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    project_in<T, K, P, tiles>(parameters<T, K>(f, chunk), at, inside);
    __syncthreads();
    gate(parameters<T, K>(f, chunk), at);
    __syncthreads();
    at.fetch_parked(sums);
    project_out<T, K, P>(parameters<T, K>(f, chunk), at, sums);
    at.park(sums);
  }
  at.fetch_parked(sums);
  finish<T, K>(f, sums);
}

template <class T, int K>
__global__ void __launch_bounds__(kThreads) pack_kernel(FusedFeedforward f) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < int64_t{f.chunks} * chunk_words(sizeof(T), 16 * K))
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

// Calls use(K, P), P in how many products.
template <class T, class Use>
void with_channels_and_products(const FusedFeedforward& f, Use&& use) {
  with_channels(f, [&](auto k) {
    if constexpr (sizeof(T) == 4)
      if (!f.tf32) return use(k, Int<3>{});
    use(k, Int<1>{});
  });
}

template <class T>
void pack_parameters(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels(f, [&](auto k) {
    const int64_t words = int64_t{f.chunks} * chunk_words(sizeof(T), 16 * k.value);
    launch(pack_kernel<T, k.value>, narrow(tiles_of(words, kThreads)), kThreads, 0, stream, f);
  });
}

template <class T>
void run(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels_and_products<T>(f, [&](auto k, auto p) {
    launch(feedforward_kernel<T, k.value, p.value>, narrow(f.B * f.down * f.across), kThreads,
           Block<T, k.value>::bytes(), stream, f);
  });
}

template <class T>
void run_projection(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels_and_products<T>(f, [&](auto k, auto p) {
    launch(projection_kernel<T, k.value, p.value>, narrow(f.B * f.down * f.across), kThreads,
           Block<T, k.value>::bytes_ungated(), stream, f);
  });
}

}  // namespace

extern const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward);
const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward) = {
    pack_parameters<MOCE_SCALAR>, run<MOCE_SCALAR>, run_projection<MOCE_SCALAR>};

}  // namespace moce
