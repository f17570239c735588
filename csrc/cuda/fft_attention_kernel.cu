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

#include "fft_attention_kernel.h"
#include "window_fft_device.h"

namespace moce {
namespace {

// A tile's convolution in shared memory; an odd distance of pixels keeps banks apart.
template <int P>
__device__ Mixed mixed_of(const FftAttention& a, float* shared) {
  const int pitch = static_cast<int>(a.C) | 1;
  return {shared, P * P * pitch, P * pitch, pitch};
}

// --- normalisation over channels, pixel by pixel -------------------------------------------------

struct Pixel {
  bool present;
  int64_t b, y, x;  // of the first pixel of the tile
  int row, column;  // from there; the host has seen to it that strides are of 32 bits
  float* mixed;

  __device__ T& in(const Strided& s, int64_t c) const {
    const int64_t tile = b * s.b + y * s.h + x * s.w;
    return static_cast<T*>(s.data)[tile + int64_t{row} * static_cast<int>(s.h) +
                                   int64_t{column} * static_cast<int>(s.w) + c * s.c];
  }
};

template <int P>
__device__ Pixel pixel_of(const FftAttention& a, const Tile& tile, const Mixed& mixed, unsigned i) {
  const int w = i / (P * P), row = i / P % P, column = i % P, x = w * P + column;
  const bool present = w < tile.windows && tile.y + row < a.H && tile.x + x < a.W;
  return {present, tile.b, tile.y, tile.x, row, x,
          mixed.data + w * mixed.window + row * mixed.row + column * mixed.column};
}

// Lanes that share the pixel have every lanes-th channel each.
struct Norm {
  float mean, scale;
  __device__ Norm(const FftAttention& a, const Pixel& p, int lane, int lanes) {
    float sum = 0, squares = 0;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) sum += p.mixed[c];
    mean = sum_lanes(sum, 1, lanes) / a.C;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes)
        squares += (p.mixed[c] - mean) * (p.mixed[c] - mean);
    scale = 1.f / sqrtf(sum_lanes(squares, 1, lanes) / a.C + a.eps);
  }
  __device__ float operator()(float x) const { return (x - mean) * scale; }
};

// Sums over lanes that share a pixel, of several at once.
template <int N>
__device__ void sum_all(float (&x)[N], int lanes) {
  for (int bit = 1; bit < lanes; bit *= 2)
    unroll<N>([&](auto i) { x[i.value] += __shfl_xor_sync(0xffffffffu, x[i.value], bit); });
}

// Calls f(pixel, lane) for pixel_of(0), ... pixel_of(count - 1), as often in all threads of a warp.
template <class PixelOf, class F>
__device__ void for_pixels(int count, int lanes, PixelOf&& pixel_of, F&& f) {
  const int group = threadIdx.x / lanes, groups = blockDim.x / lanes;
  for (int first = 0; first < count; first += groups) {
    Pixel p = pixel_of(min(first + group, count - 1));
    p.present = p.present && first + group < count;
    f(p, static_cast<int>(threadIdx.x % lanes));
  }
}

template <class PixelOf>
__device__ void normalise_any(const FftAttention& a, int count, int lanes, PixelOf&& pixel_of) {
  for_pixels(count, lanes, pixel_of, [&](const Pixel& p, int lane) {
    const Norm norm(a, p, lane, lanes);
    if (!p.present) return;
    for (int64_t c = lane; c < a.C; c += lanes) {
      const float y = norm(p.mixed[c]) * a.weight[c] + a.bias[c];
      p.in(a.out, c) = static_cast<T>(y * static_cast<float>(p.in(a.v, c)));
    }
  });
}

// The same where a lane has at most K channels of a pixel. It takes kTogether pixels at once: one after
// the other, the way to memory and the exchange between lanes would be waited for at each.
template <int K, int kTogether, class PixelOf>
__device__ void normalise_few(const FftAttention& a, int count, int lanes, PixelOf&& pixel_of) {
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = blockDim.x / lanes;
  const int C = static_cast<int>(a.C);
  const float share = 1.f / C;
  float weight[K], bias[K];
  unroll<K>([&](auto k) {
    const int c = lane + decltype(k)::value * lanes;
    weight[k.value] = c < C ? a.weight[c] : 0.f;
    bias[k.value] = c < C ? a.bias[c] : 0.f;
  });
  for (int first = group; first - group < count; first += kTogether * groups) {
    T* out[kTogether];
    float m[kTogether][K], mean[kTogether], scale[kTogether];
    T v[kTogether][K];
    int channels[kTogether];  // that there are of the pixel
    unroll<kTogether>([&](auto u) {
      const int i = first + decltype(u)::value * groups;
      const Pixel p = pixel_of(min(i, count - 1));
      const T* from = &p.in(a.v, lane);
      out[u.value] = &p.in(a.out, lane);
      channels[u.value] = p.present && i < count ? C : 0;
      mean[u.value] = 0;
      unroll<K>([&](auto k) {
        const int c = decltype(k)::value * lanes;
        const bool present = lane + c < channels[u.value];
        m[u.value][k.value] = present ? p.mixed[lane + c] : 0.f;
        v[u.value][k.value] = present ? from[c * a.v.c] : static_cast<T>(0.f);
        mean[u.value] += m[u.value][k.value];
      });
    });
    sum_all(mean, lanes);
    unroll<kTogether>([&](auto u) {
      // The sum divided by C, rounded once: channels that are all the same have nothing left.
      const float sum = mean[u.value];
      mean[u.value] = sum * share;
      mean[u.value] = fmaf(fmaf(-mean[u.value], C, sum), share, mean[u.value]);
      scale[u.value] = 0;
      unroll<K>([&](auto k) {
        m[u.value][k.value] -= mean[u.value];
        if (lane + decltype(k)::value * lanes < C)
          scale[u.value] += m[u.value][k.value] * m[u.value][k.value];
      });
    });
    sum_all(scale, lanes);
    unroll<kTogether>([&](auto u) {
      const float factor = 1.f / sqrtf(scale[u.value] * share + a.eps);
      unroll<K>([&](auto k) {
        const int c = decltype(k)::value * lanes;
        const float y = m[u.value][k.value] * factor * weight[k.value] + bias[k.value];
        if (lane + c < channels[u.value])
          out[u.value][c * a.out.c] = static_cast<T>(y * static_cast<float>(v[u.value][k.value]));
      });
    });
  }
}

template <int kTogether, class PixelOf>
__device__ void normalise(const FftAttention& a, int count, int lanes, PixelOf&& pixel_of) {
  switch (tiles_of(a.C, lanes)) {
    case 1: return normalise_few<1, kTogether>(a, count, lanes, pixel_of);
    case 2: return normalise_few<2, kTogether>(a, count, lanes, pixel_of);
    case 3: return normalise_few<3, kTogether>(a, count, lanes, pixel_of);
    case 4: return normalise_few<4, kTogether>(a, count, lanes, pixel_of);
    default: return normalise_any(a, count, lanes, pixel_of);
  }
}

// The sums for the gradients of weight and bias, in shared memory: (warps, 2, C).
struct Sums {
  float* data;
  int64_t C;
  int warps;
  __device__ Sums(const FftAttention& a, float* data)
      : data(data), C(a.C), warps(blockDim.x / 32) {}
  __device__ void clear() const {
    for (int64_t i = threadIdx.x; i < warps * 2 * C; i += blockDim.x) data[i] = 0;
    __syncthreads();
  }
  // Called by whole warps; one thread adds what the pixels of the warp give to a channel.
  __device__ void add(float weight, float bias, int64_t c, int lanes) const {
    weight = sum_lanes(weight, lanes, 32);
    bias = sum_lanes(bias, lanes, 32);
    if (threadIdx.x % 32 >= lanes || c >= C) return;
    float* sum = data + threadIdx.x / 32 * 2 * C;
    sum[c] += weight;
    sum[C + c] += bias;
  }
  __device__ void write(float* to) const {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < 2 * C; i += blockDim.x) {
      float sum = 0;
      for (int w = 0; w < warps; w++) sum += data[w * 2 * C + i];
      to[blockIdx.x * 2 * C + i] = sum;
    }
  }
};

template <class PixelOf>
__device__ void differentiate(const FftAttention& a, int count, int lanes, const Sums& sums,
                              PixelOf&& pixel_of) {
  for_pixels(count, lanes, pixel_of, [&](const Pixel& p, int lane) {
    const Norm norm(a, p, lane, lanes);
    const auto dy = [&](int64_t c) {
      return static_cast<float>(p.in(a.grad, c)) * static_cast<float>(p.in(a.v, c));
    };
    // Rounded where it is added up and where the mean is taken from it: fused with either, it would
    // leave something over one channel, where there is nothing.
    const auto dn = [&](int64_t c) { return __fmul_rn(dy(c), a.weight[c]); };
    float sum = 0, product = 0;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) {
        const float d = dn(c);
        sum += d;
        product += d * norm(p.mixed[c]);
      }
    sum = sum_lanes(sum, 1, lanes) / a.C;
    product = sum_lanes(product, 1, lanes) / a.C;
    for (int64_t first = 0; first < a.C; first += lanes) {
      const int64_t c = first + lane;
      float dweight = 0, dbias = 0;
      if (p.present && c < a.C) {
        const float n = norm(p.mixed[c]);
        dbias = dy(c);
        dweight = dbias * n;
        const float y = n * a.weight[c] + a.bias[c];
        p.in(a.dv, c) = static_cast<T>(static_cast<float>(p.in(a.grad, c)) * y);
        p.mixed[c] = (dn(c) - sum - n * product) * norm.scale;
      }
      sums.add(dweight, dbias, c, lanes);
    }
  });
}

// --- kernels -------------------------------------------------------------------------------------

// Windows of 16 leave room in shared memory for so few blocks that each may do more at once.
template <int P>
__global__ void __launch_bounds__(threads_of(P), P == 16 ? 3 : kBlocks<P>)
    attention_kernel(FftAttention a, AttentionTiling t) {
  float *scratch = shared_memory(), *shared = scratch + scratch_bytes(P) / sizeof(float);
  const Mixed mixed = mixed_of<P>(a, shared);
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    Way<P>::convolve(a, tile, mixed, scratch);
    __syncthreads();
    normalise<P == 16 ? 4 : 2>(a, tile.windows * P * P, t.lanes,
                               [&](int pixel) { return pixel_of<P>(a, tile, mixed, pixel); });
    __syncthreads();
  }
}

template <int P>
__global__ void __launch_bounds__(threads_of(P), kBlocks<P>)
    attention_backward_kernel(FftAttention a, AttentionTiling t) {
  float *scratch = shared_memory(), *shared = scratch + scratch_bytes(P) / sizeof(float);
  const Mixed mixed = mixed_of<P>(a, shared);
  const Sums sums(a, shared + t.windows * mixed.window);
  sums.clear();
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    Way<P>::convolve(a, tile, mixed, scratch);
    __syncthreads();
    differentiate(a, tile.windows * P * P, t.lanes, sums,
                  [&](int pixel) { return pixel_of<P>(a, tile, mixed, pixel); });
    __syncthreads();
    Way<P>::correlate(a, tile, mixed, scratch);
    __syncthreads();
  }
  sums.write(a.sums);
}

// Tile i of a pass over pixels: kPixels of one row. Calls f(count, pixel_of).
template <class F>
__device__ void for_pixel_tiles(const FftAttention& a, F&& f) {
  const auto across = static_cast<unsigned>(tiles_of(a.W, kPixels));
  const auto rows = static_cast<unsigned>(a.B * a.H), height = static_cast<unsigned>(a.H);
  for (unsigned i = blockIdx.x; i < rows * across; i += gridDim.x) {
    const int64_t x = int64_t{i % across} * kPixels, y = i / across % height,
                  b = i / across / height;
    float* mixed = a.mixed + ((b * a.H + y) * a.W + x) * a.C;
    f(static_cast<int>(min(int64_t{kPixels}, a.W - x)),
      [&](int pixel) { return Pixel{true, b, y, x, 0, pixel, mixed + pixel * a.C}; });
  }
}

__global__ void __launch_bounds__(kThreads, 4) normalise_kernel(FftAttention a, int lanes) {
  for_pixel_tiles(a, [&](int count, auto pixel_of) { normalise<2>(a, count, lanes, pixel_of); });
}

__global__ void __launch_bounds__(kThreads) differentiate_kernel(FftAttention a, int lanes) {
  const Sums sums(a, shared_memory());
  sums.clear();
  for_pixel_tiles(
      a, [&](int count, auto pixel_of) { differentiate(a, count, lanes, sums, pixel_of); });
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
  launch(normalise_kernel, blocks_for(pixel_tiles(a)), kThreads, 0, stream, a, t.lanes);
}
void differentiate(const FftAttention& a, const AttentionTiling& t, cudaStream_t stream) {
  launch(differentiate_kernel, blocks_for(pixel_tiles(a), kMaxSums), kThreads,
         sizeof(float) * kThreads / 32 * 2 * a.C, stream, a, t.lanes);
}

}  // namespace

const FftAttentionKernel MOCE_FOR_SCALAR(fft_attention) = {attention, attention_backward, normalise,
                                                          differentiate};

}  // namespace moce
