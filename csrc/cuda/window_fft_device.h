// The circular convolution of a tile of windows and its gradients, in registers and shared memory, for
// one element type, MOCE_SCALAR.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "moce/small_window_fft.h"
#include "window_fft_conv_kernel.h"

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
__device__ Tile tile_at(const WindowFftConv& a, const Tiling& t, unsigned i) {
  Tile tile;
  tile.c = i % t.groups * t.channels;
  i /= t.groups;
  tile.x = int64_t{i % t.across} * t.windows * P;
  i /= t.across;
  tile.y = int64_t{i % t.down} * P;
  tile.b = i / t.down;
  tile.channels = min(t.channels, a.C - tile.c);
  tile.windows = static_cast<int>(min(int64_t{t.windows}, tiles_of(a.W - tile.x, P)));
  return tile;
}

// The convolution of a tile in floats: pixel (y, x) of window w, channel c, at data[w window + y row +
// x column + c]; in shared memory or in the buffer.
struct Mixed {
  float* data;
  int window, row, column;
};

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
__device__ Window<T> window_of(const WindowFftConv& a, const Strided& s, const Tile& tile, int w,
                               int64_t c) {
  const int64_t x = tile.x + w * P;
  T* data = static_cast<T*>(s.data) + tile.b * s.b + (tile.c + c) * s.c + tile.y * s.h + x * s.w;
  return {data, not_ahead(s.h), not_ahead(s.w),
          static_cast<int>(min(int64_t{P}, a.H - tile.y)),
          static_cast<int>(min(int64_t{P}, a.W - x))};
}

template <int P>
__device__ Window<float> window_of(const WindowFftConv& a, const Mixed& m, const Tile& tile, int w,
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
__device__ void for_items(const WindowFftConv& a, const Tile& tile, F&& f) {
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

  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out,
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
      write<P>(window_of<P>(a, out, tile, w, c), x);
    });
  }

  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad,
                                   float* shared) {
    const InRegisters spectrum(shared);
    for_items(a, tile, [&](int w, int c) {
      float x[P][P];
      read<P>(window_of<P>(a, grad, tile, w, c), x);
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

  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out,
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
      if (present) k.write_rows(window_of<P>(a, out, tile, 0, c));
      __syncthreads();
    });
  }

  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad,
                                   float* shared) {
    const Matrix d = matrix(shared, 0), other = matrix(shared, 1);
    for_channels(tile, [&](int64_t c, bool present) {
      if (present) d.read_rows(window_of<P>(a, grad, tile, 0, c));
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

// `convolve` puts q (*) k to `out`, `correlate` makes dq and dk of `grad`; both are a tensor or Mixed.
template <int P>
using Way = std::conditional_t<(P <= 8), InRegisters<P>, InRowsAndColumns<P>>;

// Blocks on a multiprocessor, as many as there may be without spills.
template <int P>
constexpr int kBlocks = P == 4 ? 4 : P == 8 ? 2 : 3;

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

}  // namespace
}  // namespace moce
