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
// three rows a thread, and with more than 32 channels of x a tile is 16 x 8 and a thread has two rows. With more
// than 64, in 16 bits, a tile is 16 x 4.
//
// Products of float32 are P of TF32, three or one: see tensor_cores.h.

#include "fused_feedforward_kernel.h"

#include "fused_feedforward_steps.h"
#include "gelu.h"

namespace moce {
namespace {

// Step 2.
template <class T, int K>
__device__ void gate(const Parameters<T, K>& p, const Block<T, K>& at) {
  using B = Block<T, K>;
  const auto [channel, group, column] = share_here<T>();
  const T* from =
      at.hidden + (group * B::kRows * kHaloWidth + column) * B::kHiddenStride + channel;
  T* to = at.gated + group * B::kGroup + column * B::kGatedStride + channel;
  float a[B::kRows][kColumns][2];
  convolve<B>(from, &p.taps[0][0][channel], &p.depthwise_bias[0][channel],
                 [&](auto y, const float(&row)[kColumns][2]) {
                   unroll<kColumns * 2>([&](auto i) {
                     constexpr int x = decltype(i)::value / 2, c = decltype(i)::value % 2;
                     float slope;
                     a[y.value][x][c] = gelu<T>(row[x][c], slope);
                   });
                 });
  convolve<B>(from + B::kChunk, &p.taps[1][0][channel], &p.depthwise_bias[1][channel],
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
  const B at(f, block_here());
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

template <class T, int K, int P>
__global__ void __launch_bounds__(kThreads, 2) feedforward_kernel(FusedFeedforward f) {
  using B = Block<T, K>;
  const B at(f, block_here());
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
  MatrixC sums[B::kMatrices][K] = {};
  at.park(sums);
  // What registers are there for.
  constexpr int tiles = (sizeof(T) == 4 && (P == 3 || K == 4)) || K == 6 ? 2 : 4;
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    project_in<B, P, tiles>(parameters<B>(f, chunk), at, inside, 2 * B::kChunk);
    __syncthreads();
    gate(parameters<B>(f, chunk), at);
    __syncthreads();
    at.fetch_parked(sums);
    project_out<T, K, P>(parameters<B>(f, chunk), at, sums);
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

template <class T>
void pack_parameters(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels<T>(f, [&](auto k) {
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

}  // namespace

extern const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward);
const FusedFeedforwardKernel MOCE_FOR_SCALAR(fused_feedforward) = {
    pack_parameters<MOCE_SCALAR>, run<MOCE_SCALAR>};

}  // namespace moce
