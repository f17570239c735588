// Kernels of fused_projection and fused_attention_sums for one element type, MOCE_SCALAR: steps 1 and 2 of
// fused_feedforward_kernel.cu without a gate, out = DW3x3(W n(x) + bias), 64 channels at a time (32 of
// float32).
//
// `projection_kernel`: x (B, C, H, W), out (B, N, H, W), channels-last. C + N numbers are moved for each
// pixel, where the features between would be 2 N more.
//
// `attention_kernel`: of q, k and v, which are N = 3 C, only v is written. Of q and k it leaves the sums that
// attention over channels needs, q k^T of each head and the squared lengths, over the tiles that a block
// takes, in a fixed order: 2 C numbers are moved for each pixel, where q and k would be 4 C more. Step 2
// leaves a tile of both in shared memory, in x's type: X (pixels, 2 C). Tensor cores then multiply X^T X,
// but only those matrices of 16 x 8 that q k^T of a head or the diagonal lies in, each by one warp.

#include "fused_feedforward_steps.h"

namespace moce {
namespace {

// What a thread convolves of a tile: its channel of a half, where its results begin, and how many rows and
// columns of them are in the image.
template <class B>
struct Results {
  int channel, row, column, rows, columns;
  const typename B::T* from;
  __device__ explicit Results(const B& at) {
    const auto [of_half, group, first] = share_here<typename B::T>();
    channel = static_cast<int>(of_half);
    row = group * B::kRows;
    column = first;
    rows = at.height - at.y - row;
    columns = at.width - at.x - column;
    from = at.hidden + (row * kHaloWidth + column) * B::kHiddenStride + channel;
  }
};

// For each half of a chunk whose channels are before `end`, where the thread's first of the first half is
// `first`: calls use(offset of its channels, y, row of results).
template <class B, class Use>
__device__ void convolve_halves(const ParametersOf<B>& p, const Results<B>& mine, int first, int end,
                                Use&& use) {
  const float* taps = &p.taps[0][0][mine.channel];
  const float* bias = &p.depthwise_bias[0][mine.channel];
  unroll<2>([&](auto half) {
    constexpr int beyond = half.value * B::kChunk;
    if (first + beyond >= end) return;
    convolve<B>(mine.from + beyond, taps + 9 * beyond, bias + beyond,
                [&](auto y, const float(&row)[kColumns][2]) { use(Int<beyond>{}, y, row); });
  });
}

// To `out`, which has so many channels: of them from `from` on.
template <class B>
__device__ void convolve_to_out(const FusedFeedforward& f, const ParametersOf<B>& p, const B& at,
                                int from, int channels) {
  const Results<B> mine(at);
  const int first = from + mine.channel;
  auto* to = static_cast<typename B::T*>(f.out) + first +
             ((at.image * at.height + at.y + mine.row) * at.width + at.x + mine.column) * channels;
  convolve_halves<B>(p, mine, first, channels, [&](auto beyond, auto y, const float(&row)[kColumns][2]) {
    unroll<kColumns>([&](auto x) {
      if (y.value < mine.rows && x.value < mine.columns)
        put_two(to + beyond.value + (y.value * at.width + x.value) * channels, row[x.value][0],
                row[x.value][1]);
    });
  });
}

// To shared memory, channels of q and k from `from` on; zeros for pixels outside the image.
template <class B>
__device__ void convolve_to_sum(const ParametersOf<B>& p, const B& at, int from) {
  constexpr int stride = B::kQueryKeyStride;
  const Results<B> mine(at);
  const int first = from + mine.channel;
  auto* to = at.query_key + (mine.row * kTileWidth + mine.column) * stride + first;
  convolve_halves<B>(p, mine, first, 2 * B::C, [&](auto beyond, auto y, const float(&row)[kColumns][2]) {
    unroll<kColumns>([&](auto x) {
      const bool inside = y.value < mine.rows && x.value < mine.columns;
      put_two(to + beyond.value + (y.value * kTileWidth + x.value) * stride,
              inside ? row[x.value][0] : 0.f, inside ? row[x.value][1] : 0.f);
    });
  });
}

// The matrices of X^T X that a warp sums, each with 16 of the rows from `row` on and 8 columns from `column`
// on: first those of q k^T, by 16 channels of q, then the diagonal.
template <class B>
struct GramMatrices {
  static constexpr int kWarps = kThreads / 32;
  // The most matrices a warp has, with the widest heads.
  static constexpr int kWidest = B::C <= 64 ? B::C : 48;
  static constexpr int kMost = (B::K * (kWidest / 8) + 4 * B::K + kWarps - 1) / kWarps;
  unsigned head, of_heads;  // channels, and how many matrices q k^T has

  __device__ explicit GramMatrices(const FusedFeedforward& f)
      : head(f.head), of_heads(B::K * (f.head / 8)) {}
  // Calls use(i, row, column, diagonal) for the warp's i-th.
  template <class Use>
  __device__ void for_each(Use&& use) const {
    const unsigned warp = thread_here() / 32, in_row = head / 8;
    unroll<kMost>([&](auto i) {
      const unsigned at = warp + kWarps * i.value;
      if (at < of_heads) {
        const unsigned row = at / in_row * 16;
        use(i, row, B::C + row / head * head + at % in_row * 8, false);
      } else if (at < of_heads + 4 * B::K) {
        const unsigned column = (at - of_heads) * 8;
        use(i, column / 16 * 16, column, true);
      }
    });
  }
};

template <class B>
using GramSums = MatrixC[GramMatrices<B>::kMost];

template <class B>
__device__ void add_products(const FusedFeedforward& f, const B& at, GramSums<B>& sums) {
  using T = typename B::T;
  constexpr int stride = B::kQueryKeyStride;
  GramMatrices<B>(f).for_each([&](auto i, unsigned row, unsigned column, bool) {
    unroll<B::kPixels / 16>([&](auto k) {
      const T* pixels = at.query_key + 16 * k.value * stride;
      sums[i.value] = multiply_add<T>(load_transposed(pixels + row, stride),
                                      load_rows(pixels + column, stride), sums[i.value]);
    });
  });
}

// The block's sums to its part.
template <class B>
__device__ void store_sums(const FusedFeedforward& f, const GramSums<B>& sums) {
  const unsigned lane = thread_here() % 32, g = lane / 4, t = lane % 4;
  const int head = f.head;
  float* to = f.sums + int64_t{block_here()} * (B::C * (head + 2));
  GramMatrices<B>(f).for_each([&](auto i, unsigned row, unsigned column, bool diagonal) {
    const float(&sum)[4] = sums[i.value].numbers;
    if (diagonal) {
      if (t == g / 2) {
        const unsigned lower = column % 16 / 8 * 2;  // of the 16 rows, the last eight
        to[B::C * head + column + g] =
            lower ? (g % 2 ? sum[3] : sum[2]) : (g % 2 ? sum[1] : sum[0]);
      }
    } else {
      float* first = to + (row + g) * head + (column - B::C) % head + 2 * t;
      unroll<4>([&](auto n) { first[n.value / 2 * 8 * head + n.value % 2] = sum[n.value]; });
    }
  });
}

template <class T, int K, int P>
__global__ void __launch_bounds__(kThreads, 2) projection_kernel(FusedFeedforward f) {
  using B = Block<T, K>;
  const B at(f, block_here());
  load_input(f, at);
  if (f.norm) normalise(f, at);
  const unsigned inside = stored_by_lane(at);
#pragma unroll 1
  for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
    const int first = static_cast<int>(chunk) * 2 * B::kChunk;
    project_in<B, P, 4>(parameters<B>(f, chunk), at, inside, f.N - first);
    __syncthreads();
    convolve_to_out(f, parameters<B>(f, chunk), at, first, f.N);
    __syncthreads();
  }
}

template <class T, int K>
using AttentionBlock = Block<T, K, attention_height(16 * K)>;

template <class T, int K>
__global__ void __launch_bounds__(kThreads, 2) attention_kernel(FusedFeedforward f) {
  using B = AttentionBlock<T, K>;
  GramSums<B> sums = {};
#pragma unroll 1
  for (unsigned tile = block_here() % f.parts; tile < f.down * f.across; tile += f.parts) {
    const B at(f, block_here() / f.parts * (f.down * f.across) + tile);
    load_input(f, at);
    if (f.norm) normalise(f, at);
    const unsigned inside = stored_by_lane(at);
#pragma unroll 1
    for (unsigned chunk = 0; chunk < f.chunks; chunk++) {
      const auto [first, channels] = channels_of<T>(f, chunk);
      project_in<B, 1, K <= 4 ? 4 : 2>(parameters<B>(f, chunk), at, inside, channels);
      __syncthreads();
      if (first < f.split)
        convolve_to_sum(parameters<B>(f, chunk), at, first);
      else
        convolve_to_out(f, parameters<B>(f, chunk), at, first - f.split, f.N - f.split);
      __syncthreads();
      if (first < f.split && first + channels == f.split) add_products(f, at, sums);
    }
  }
  store_sums<B>(f, sums);
}

// --- launches ------------------------------------------------------------------------------------

template <class T>
void run(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels_and_products<T>(f, [&](auto k, auto p) {
    launch(projection_kernel<T, k.value, p.value>, narrow(f.B * f.down * f.across), kThreads,
           Block<T, k.value>::bytes_ungated(), stream, f);
  });
}

// With 128 channels of float16 it would spill registers, for 10.0.
template <class T, int K>
constexpr bool kAttention = K < 8 || std::is_same_v<T, BFloat16>;

template <class T>
void run_attention(const FusedFeedforward& f, cudaStream_t stream) {
  with_channels<T>(f, [&](auto k) {
    if constexpr (kAttention<T, k.value>) {
      using B = AttentionBlock<T, k.value>;
      static_assert(B::bytes_with_sums() <= 99 * 1024);
      launch(attention_kernel<T, k.value>, narrow(f.B * f.parts), kThreads, B::bytes_with_sums(),
             stream, f);
    }
  });
}

template <class T>
constexpr FusedProjectionKernel kernels() {
  if constexpr (sizeof(T) == 4)
    return {run<T>, nullptr};
  else
    return {run<T>, run_attention<T>};
}

}  // namespace

extern const FusedProjectionKernel MOCE_FOR_SCALAR(fused_projection);
const FusedProjectionKernel MOCE_FOR_SCALAR(fused_projection) = kernels<MOCE_SCALAR>();

}  // namespace moce
