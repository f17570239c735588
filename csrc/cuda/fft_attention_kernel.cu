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
// FLOPs: a transform of a window takes about 2.5 P^2 log2(P^2) / 2; forward has 3, backward 6.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "fft_attention_kernel.h"
#include "moce/small_window_fft.h"

namespace moce {
namespace {

using T = MOCE_SCALAR;

// --- where things are ----------------------------------------------------------------------------

struct Tile {
  int64_t b, y, x, c;  // the image, the first pixel, the first channel
  int windows;
  int64_t channels;
};

template <int P>
__device__ Tile tile_at(const FftAttention& a, const Tiling& t, unsigned i) {
  Tile tile;
  tile.c = i % t.groups * t.channels;
  i /= t.groups;
  tile.x = int64_t{i % t.across} * t.windows * P;
  i /= t.across;
  tile.y = int64_t{i % t.down} * P;
  tile.b = i / t.down;
  tile.channels = min(t.channels, a.C - tile.c);
  tile.windows = static_cast<int>(min(int64_t{t.windows}, (a.W - tile.x + P - 1) / P));
  return tile;
}

// The convolution of a tile: pixel (y, x) of window w, channel c, at data[w window + y row +
// x column + c]; in shared memory or in the buffer.
struct Mixed {
  float* data;
  int window, row, column;
};

template <int P>
__device__ Mixed mixed_of(const FftAttention& a, const Tiling& t, const Tile& tile, float* shared) {
  const int C = static_cast<int>(a.C), W = static_cast<int>(a.W), pitch = C | 1;
  if (t.fused) return {shared, P * P * pitch, P * pitch, pitch};
  return {a.mixed + ((tile.b * a.H + tile.y) * a.W + tile.x) * a.C + tile.c, P * C, W * C, C};
}

// One channel of one window: its elements, and how many rows and columns are within the image. The
// host has seen to it that 32 bits are enough within a window: 64 would cost registers.
template <class E>
struct Window {
  E* data;
  int row, column;
  int rows, columns;

  __device__ bool has(int y, int x) const { return y < rows && x < columns; }
  __device__ E& at(int y, int x) const { return data[y * row + x * column]; }
  __device__ float get(int y, int x) const {
    return has(y, x) ? static_cast<float>(at(y, x)) : 0.f;
  }
  __device__ void put(int y, int x, float value) const {
    if (has(y, x)) at(y, x) = static_cast<E>(value);
  }
};

// Else the compiler would compute all multiples of all strides ahead, and keep them in registers.
__device__ inline int not_ahead(int64_t stride) {
  int value = static_cast<int>(stride);
  asm volatile("" : "+r"(value));
  return value;
}

template <int P>
__device__ Window<T> window_of(const FftAttention& a, const Strided& s, const Tile& tile, int w,
                               int64_t c) {
  const int64_t x = tile.x + w * P;
  T* data = static_cast<T*>(s.data) + tile.b * s.b + (tile.c + c) * s.c + tile.y * s.h + x * s.w;
  return {data, not_ahead(s.h), not_ahead(s.w),
          static_cast<int>(min(int64_t{P}, a.H - tile.y)),
          static_cast<int>(min(int64_t{P}, a.W - x))};
}

template <int P>
__device__ Window<float> window_of(const FftAttention& a, const Mixed& m, const Tile& tile, int w,
                                   int64_t c) {
  return {m.data + w * m.window + c, not_ahead(m.row), not_ahead(m.column),
          static_cast<int>(min(int64_t{P}, a.H - tile.y)),
          static_cast<int>(min(int64_t{P}, a.W - tile.x - w * P))};
}

// --- windows of 4 and 8: in the registers of one thread ------------------------------------------

template <int P, class E>
__device__ void read(const Window<E>& window, float (&x)[P][P]) {
  unroll<P * P>([&](auto i) {
    constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
    x[y][c] = window.get(y, c);
  });
}
template <int P, class E>
__device__ void write(const Window<E>& window, const float (&x)[P][P]) {
  constexpr float scale = 1.f / (P * P);
  unroll<P * P>([&](auto i) {
    constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
    window.put(y, c, x[y][c] * scale);
  });
}

// Calls f(window, channel) for those of the thread, neighbours in memory for neighbouring threads.
template <class F>
__device__ void for_items(const FftAttention& a, const Tile& tile, F&& f) {
  const int channels = static_cast<int>(tile.channels), items = tile.windows * channels;
  for (int i = threadIdx.x; i < items; i += blockDim.x)
    a.channels_last ? f(i / channels, i % channels) : f(i % tile.windows, i / tile.windows);
}

// A thread has one spectrum in registers and another in shared memory, its values in a column there:
// two and their temporaries would be too much for registers.
template <int P>
struct InRegisters {
  float* mine;

  __device__ explicit InRegisters(float* shared) : mine(shared + threadIdx.x) {}

  __device__ void keep(const float (&x)[P][P]) const {
    unroll<P * P>([&](auto i) { mine[i.value * kThreads] = x[i.value / P][i.value % P]; });
  }
  template <bool Conjugate>
  __device__ void inverse_with_kept(float (&x)[P][P]) const {
    inverse_window_fft<P, Conjugate>(
        [&](auto y, auto x) { return mine[(y.value * P + x.value) * kThreads]; }, x);
  }

  static __device__ void convolve(const FftAttention& a, const Tile& tile, const Mixed& mixed,
                                  float* shared) {
    const InRegisters spectrum(shared);
    for_items(a, tile, [&](int w, int c) {
      float x[P][P];
      read<P>(window_of<P>(a, a.q, tile, w, c), x);
      window_fft<P>(x);
      spectrum.keep(x);
      read<P>(window_of<P>(a, a.k, tile, w, c), x);
      window_fft<P>(x);
      spectrum.template inverse_with_kept<false>(x);
      write<P>(window_of<P>(a, mixed, tile, w, c), x);
    });
  }

  static __device__ void correlate(const FftAttention& a, const Tile& tile, const Mixed& mixed,
                                   float* shared) {
    const InRegisters spectrum(shared);
    for_items(a, tile, [&](int w, int c) {
      float x[P][P];
      read<P>(window_of<P>(a, mixed, tile, w, c), x);
      window_fft<P>(x);
      spectrum.keep(x);
#pragma unroll 1
      for (int side = 0; side < 2; side++) {
        read<P>(window_of<P>(a, side ? a.q : a.k, tile, w, c), x);
        window_fft<P>(x);
        spectrum.template inverse_with_kept<true>(x);
        write<P>(window_of<P>(a, side ? a.dk : a.dq, tile, w, c), x);
      }
    });
  }
};

// --- windows of 16 and 32: rows, then columns, in the registers of P/2 threads -------------------

template <int P>
struct InRowsAndColumns {
  static constexpr int G = channels_together(P);

  // Thread (c, j) has rows j and j + P/2 and the complex column j of channel c. A matrix keeps the
  // real parts of the columns before the imaginary ones: banks of shared memory do not clash then.
  struct Matrix {
    float* data;
    int j;

    __device__ float& re(int row, int column) const {
      return data[row * row_floats(P) + column * G];
    }
    __device__ float& im(int row, int column) const { return re(row, P / 2 + column); }
    __device__ void get(Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) { z[i.value] = {re(i.value, j), im(i.value, j)}; });
    }
    __device__ void put(const Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) {
        re(i.value, j) = z[i.value].re;
        im(i.value, j) = z[i.value].im;
      });
    }
    // The rows of a window, transformed.
    template <class E>
    __device__ void read_rows(const Window<E>& window) const {
#pragma unroll 1
      for (int y = j; y < P; y += P / 2)
        real_fft<P, float>([&](auto n) { return window.get(y, n.value); },
                           [&](auto k, float value) {
                             constexpr int i = decltype(k)::value;
                             (i % 2 ? im(y, i / 2) : re(y, i / 2)) = value;
                           });
    }
    template <class E>
    __device__ void write_rows(const Window<E>& window) const {
      constexpr float scale = 1.f / (P * P);
#pragma unroll 1
      for (int y = j; y < P; y += P / 2)
        inverse_real_fft<P, float>(
            [&](auto k) {
              constexpr int i = decltype(k)::value;
              return i % 2 ? im(y, i / 2) : re(y, i / 2);
            },
            [&](auto n, float value) { window.put(y, n.value, value * scale); });
    }
    __device__ void transform_column() const {
      Complex<float> z[P];
      get(z);
      column_fft<P>(z);
      put(z);
    }
    // A column back from its product with one of `a`, which is transformed already.
    template <bool Conjugate>
    __device__ void convolve_column(const Matrix& a) const {
      Complex<float> x[P], z[P];
      get(z);
      column_fft<P>(z);
      a.get(x);
      multiply_column<P, Conjugate>(x, z, z, j == 0);
      inverse_column_fft<P>(z);
      put(z);
    }
  };

  // Calls f(channel, present) for the thread's channels, as often in all threads.
  template <class F>
  static __device__ void for_channels(const Tile& tile, F&& f) {
    for (int64_t first = 0; first < tile.channels; first += G) {
      const int64_t channel = first + threadIdx.x % G;
      f(channel, channel < tile.channels);
    }
  }
  static __device__ Matrix matrix(float* shared, int i) {
    return {shared + i * P * row_floats(P) + threadIdx.x % G, static_cast<int>(threadIdx.x) / G};
  }

  static __device__ void convolve(const FftAttention& a, const Tile& tile, const Mixed& mixed,
                                  float* shared) {
    const Matrix q = matrix(shared, 0), k = matrix(shared, 1);
    for_channels(tile, [&](int64_t c, bool present) {
      if (present) {
        q.read_rows(window_of<P>(a, a.q, tile, 0, c));
        k.read_rows(window_of<P>(a, a.k, tile, 0, c));
      }
      __syncthreads();
      if (present) {
        q.transform_column();
        k.template convolve_column<false>(q);
      }
      __syncthreads();
      if (present) k.write_rows(window_of<P>(a, mixed, tile, 0, c));
      __syncthreads();
    });
  }

  static __device__ void correlate(const FftAttention& a, const Tile& tile, const Mixed& mixed,
                                   float* shared) {
    const Matrix d = matrix(shared, 0), other = matrix(shared, 1);
    for_channels(tile, [&](int64_t c, bool present) {
      if (present) d.read_rows(window_of<P>(a, mixed, tile, 0, c));
#pragma unroll 1
      for (int side = 0; side < 2; side++) {
        if (present) other.read_rows(window_of<P>(a, side ? a.q : a.k, tile, 0, c));
        __syncthreads();
        if (present) {
          if (side == 0) d.transform_column();
          other.template convolve_column<true>(d);
        }
        __syncthreads();
        if (present) other.write_rows(window_of<P>(a, side ? a.dk : a.dq, tile, 0, c));
        __syncthreads();
      }
    });
  }
};

template <int P>
using Way = std::conditional_t<(P <= 8), InRegisters<P>, InRowsAndColumns<P>>;

// --- normalisation over channels, pixel by pixel -------------------------------------------------

struct Pixel {
  bool present;
  int64_t b, y, x;
  float* mixed;

  __device__ T& in(const Strided& s, int64_t c) const {
    return static_cast<T*>(s.data)[b * s.b + y * s.h + x * s.w + c * s.c];
  }
};

template <int P>
__device__ Pixel pixel_of(const FftAttention& a, const Tile& tile, const Mixed& mixed, int i) {
  const int w = i / (P * P), row = i / P % P, column = i % P;
  const int64_t y = tile.y + row, x = tile.x + w * P + column;
  return {w < tile.windows && y < a.H && x < a.W, tile.b, y, x,
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
__device__ void normalise(const FftAttention& a, int count, int lanes, PixelOf&& pixel_of) {
  for_pixels(count, lanes, pixel_of, [&](const Pixel& p, int lane) {
    const Norm norm(a, p, lane, lanes);
    if (!p.present) return;
    for (int64_t c = lane; c < a.C; c += lanes) {
      const float y = norm(p.mixed[c]) * a.weight[c] + a.bias[c];
      p.in(a.out, c) = static_cast<T>(y * static_cast<float>(p.in(a.v, c)));
    }
  });
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
    float sum = 0, product = 0;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) {
        const float dn = dy(c) * a.weight[c];
        sum += dn;
        product += dn * norm(p.mixed[c]);
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
        p.mixed[c] = (dbias * a.weight[c] - sum - n * product) * norm.scale;
      }
      sums.add(dweight, dbias, c, lanes);
    }
  });
}

// --- kernels -------------------------------------------------------------------------------------

// The second launch bound, blocks on a multiprocessor, is as high as it may be without spills.

template <int P>
__global__ void __launch_bounds__(kThreads, P == 4 ? 4 : P == 8 ? 2 : 3)
    convolve_kernel(FftAttention a, Tiling t) {
  float *scratch = shared_memory(), *shared = scratch + scratch_bytes(P) / sizeof(float);
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    const Mixed mixed = mixed_of<P>(a, t, tile, shared);
    Way<P>::convolve(a, tile, mixed, scratch);
    if (!t.fused) continue;
    __syncthreads();
    normalise(a, tile.windows * P * P, t.lanes,
              [&](int pixel) { return pixel_of<P>(a, tile, mixed, pixel); });
    __syncthreads();
  }
}

template <int P>
__global__ void __launch_bounds__(kThreads, P == 4 ? 4 : P == 8 ? 2 : 3)
    correlate_kernel(FftAttention a, Tiling t) {
  float *scratch = shared_memory(), *shared = scratch + scratch_bytes(P) / sizeof(float);
  const Sums sums(a, shared + t.windows * P * P * (a.C | 1));
  if (t.fused) sums.clear();
  for (unsigned i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const Tile tile = tile_at<P>(a, t, i);
    const Mixed mixed = mixed_of<P>(a, t, tile, shared);
    if (t.fused) {
      Way<P>::convolve(a, tile, mixed, scratch);
      __syncthreads();
      differentiate(a, tile.windows * P * P, t.lanes, sums,
                    [&](int pixel) { return pixel_of<P>(a, tile, mixed, pixel); });
      __syncthreads();
    }
    Way<P>::correlate(a, tile, mixed, scratch);
    if (t.fused) __syncthreads();
  }
  if (t.fused) sums.write(a.sums);
}

// Tile i of a pass over pixels: kPixels of one row. Calls f(count, pixel_of).
template <class F>
__device__ void for_pixel_tiles(const FftAttention& a, F&& f) {
  const auto across = static_cast<unsigned>((a.W + kPixels - 1) / kPixels);
  const auto rows = static_cast<unsigned>(a.B * a.H), height = static_cast<unsigned>(a.H);
  for (unsigned i = blockIdx.x; i < rows * across; i += gridDim.x) {
    const int64_t x = int64_t{i % across} * kPixels, y = i / across % height,
                  b = i / across / height;
    float* mixed = a.mixed + ((b * a.H + y) * a.W + x) * a.C;
    f(static_cast<int>(min(int64_t{kPixels}, a.W - x)),
      [&](int pixel) { return Pixel{true, b, y, x + pixel, mixed + pixel * a.C}; });
  }
}

__global__ void __launch_bounds__(kThreads) normalise_kernel(FftAttention a, int lanes) {
  for_pixel_tiles(a, [&](int count, auto pixel_of) { normalise(a, count, lanes, pixel_of); });
}

__global__ void __launch_bounds__(kThreads) differentiate_kernel(FftAttention a, int lanes) {
  const Sums sums(a, shared_memory());
  sums.clear();
  for_pixel_tiles(
      a, [&](int count, auto pixel_of) { differentiate(a, count, lanes, sums, pixel_of); });
  sums.write(a.sums);
}

// Calls f(Int<window>).
template <class F>
void with_window(int window, F&& f) {
  switch (window) {
    case 4: return f(Int<4>{});
    case 8: return f(Int<8>{});
    case 16: return f(Int<16>{});
    default: return f(Int<32>{});
  }
}

void convolve(const FftAttention& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(convolve_kernel<decltype(P)::value>, blocks_for(t.tiles), t.threads, t.shared, stream, a,
           t);
  });
}
void correlate(const FftAttention& a, int window, const Tiling& t, cudaStream_t stream) {
  with_window(window, [&](auto P) {
    launch(correlate_kernel<decltype(P)::value>,
           t.fused ? blocks_for(t.tiles, kMaxSums) : blocks_for(t.tiles), t.threads, t.shared,
           stream, a, t);
  });
}
void normalise(const FftAttention& a, const Tiling& t, cudaStream_t stream) {
  launch(normalise_kernel, blocks_for(pixel_tiles(a)), kThreads, 0, stream, a, t.lanes);
}
void differentiate(const FftAttention& a, const Tiling& t, cudaStream_t stream) {
  launch(differentiate_kernel, blocks_for(pixel_tiles(a), kMaxSums), kThreads,
         sizeof(float) * kThreads / 32 * 2 * a.C, stream, a, t.lanes);
}

}  // namespace

const FftAttentionKernel MOCE_FOR_SCALAR(fft_attention) = {convolve, normalise, differentiate,
                                                          correlate};

}  // namespace moce
