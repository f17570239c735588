// Windows of 8 to 32: rows, then columns, in the registers of P/2 threads for each channel. Part of
// window_fft_device.h.
//
// Each step has its own access to memory: all elements of a window are copied to shared memory at
// once, as they are; each thread transforms its rows there, in their place; then its column. What
// comes out goes from registers to memory.
#pragma once

#include "copy_async.h"

namespace moce {
namespace {

template <int P>
struct InRowsAndColumns {
  static constexpr int G = channels_together(P), kRow = row_floats(P);
  static_assert(32 % G == 0, "a row is transformed by lanes of one warp");

  // Thread (c, j) has rows j and j + P/2 and the complex column j of channel c. A matrix keeps the
  // real parts of the columns before the imaginary ones: banks of shared memory do not clash then.
  // Before its transform a row holds the elements of its pixels, G channels each.
  struct Matrix {
    float* data;
    int c, j;

    __device__ Matrix(float* shared, int i)
        : data(shared + i * P * kRow),
          c(static_cast<int>(threadIdx.x) % G),
          j(static_cast<int>(threadIdx.x) / G) {}
    __device__ float& re(int row, int column) const { return data[row * kRow + column * G + c]; }
    __device__ float& im(int row, int column) const { return re(row, P / 2 + column); }
    __device__ void get(Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) {
        constexpr int y = decltype(i)::value;
        z[y] = {re(y, j), im(y, j)};
      });
    }
    __device__ void put(const Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) {
        constexpr int y = decltype(i)::value;
        re(y, j) = z[y].re;
        im(y, j) = z[y].im;
      });
    }
    template <class E>
    __device__ E* element(int y, int x, int channel) const {
      return reinterpret_cast<E*>(data + y * kRow) + x * G + channel;
    }

    // Fetches G channels, from that of `window` on; zeros where there are none.
    template <int N, class E>
    __device__ void copy(const Window<E>& window, int64_t channels) const {
      constexpr int kTogether = N / int{sizeof(E)}, kParts = G / kTogether;
      static_assert(kTogether >= 1);
#pragma unroll 1
      for (int first = 0; first < P * P * kParts; first += threads_of(P)) {
        const unsigned i = first + threadIdx.x, pixel = i / kParts;
        const int channel = i % kParts * kTogether, x = pixel % P, y = pixel / P;
        const bool present = y < window.rows && x < window.columns && channel < channels;
        const E* from = window.data + (present ? y * window.row + x * window.column + channel : 0);
        copy_async<N>(element<E>(y, x, channel), from, present);
      }
    }
    // The same, element by element.
    template <class E>
    __device__ void copy_elements(const Window<E>& window, int64_t channels, int64_t stride) const {
#pragma unroll 4
      for (int first = 0; first < P * P * G; first += threads_of(P)) {
        const unsigned i = first + threadIdx.x, pixel = stride == 1 ? i / G : i % (P * P);
        const int channel = stride == 1 ? i % G : i / (P * P), x = pixel % P, y = pixel / P;
        E value = static_cast<E>(0.f);
        if (y < window.rows && x < window.columns && channel < channels)
          value = window.data[y * window.row + x * window.column + channel * stride];
        *element<E>(y, x, channel) = value;
      }
    }
    template <class E>
    __device__ void fetch(const WindowFftConv& a, const Of<E>& of, const Tile& tile,
                          int64_t first) const {
      const Window<E> window = window_of<P>(a, of, tile, 0, first);
      const int64_t channels = tile.channels - first;
      switch (of.tensor.chunk) {
        case 16: return copy<16>(window, channels);
        case 8: return copy<8>(window, channels);
        case 4: return copy<4>(window, channels);
        default: return copy_elements(window, channels, of.tensor.c);
      }
    }
    __device__ void fetch(const WindowFftConv&, const Mixed&, const Tile&, int64_t) const {}

    __device__ void transform_row(int y, const float (&x)[P]) const {
      real_fft<P, float>([&](auto n) { return x[decltype(n)::value]; },
                         [&](auto k, float value) {
                           constexpr int i = decltype(k)::value;
                           (i % 2 ? im(y, i / 2) : re(y, i / 2)) = value;
                         });
    }
    template <class E>
    __device__ void transform_rows(const WindowFftConv&, const Of<E>&, const Tile&,
                                   int64_t) const {
#pragma unroll 1
      for (int y = j; y < P; y += P / 2) {
        float x[P];
        unroll<P>([&](auto n) {
          x[decltype(n)::value] = static_cast<float>(*element<E>(y, decltype(n)::value, c));
        });
        __syncwarp();  // the row's other channels are read where this one is written
        transform_row(y, x);
      }
    }
    __device__ void transform_rows(const WindowFftConv& a, const Mixed& mixed, const Tile& tile,
                                   int64_t first) const {
      const Window<float> window = window_of<P>(a, mixed, tile, 0, first + c);
#pragma unroll 1
      for (int y = j; y < P; y += P / 2) {
        float x[P];
        window.get_row(y, x);
        transform_row(y, x);
      }
    }
    template <class E>
    __device__ void write_rows(const Window<E>& window) const {
#pragma unroll 1
      for (int y = j; y < P; y += P / 2) {
        float x[P];
        inverse_real_fft<P, float>(
            [&](auto k) {
              constexpr int i = decltype(k)::value;
              return i % 2 ? im(y, i / 2) : re(y, i / 2);
            },
            [&](auto n, float value) { x[decltype(n)::value] = value; });
        window.put_row(y, x);
      }
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

  static __device__ void arrive() {
    await_copies();
    __syncthreads();
  }

  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out,
                                  float* shared) {
    const Matrix q(shared, 0), k(shared, 1);
#pragma unroll 1
    for (int64_t first = 0; first < tile.channels; first += G) {
      q.fetch(a, Of<T>{a.q}, tile, first);
      k.fetch(a, Of<T>{a.k}, tile, first);
      arrive();
      q.transform_rows(a, Of<T>{a.q}, tile, first);
      k.transform_rows(a, Of<T>{a.k}, tile, first);
      __syncthreads();
      q.transform_column();
      k.template convolve_column<false>(q);
      __syncthreads();
      k.write_rows(window_of<P>(a, out, tile, 0, first + k.c));
      __syncthreads();
    }
  }

  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad,
                                   float* shared) {
    const Matrix d(shared, 0), other(shared, 1);
#pragma unroll 1
    for (int64_t first = 0; first < tile.channels; first += G) {
      d.fetch(a, grad, tile, first);
#pragma unroll 1
      for (int side = 0; side < 2; side++) {
        const Of<T> factor{side ? a.q : a.k};
        other.fetch(a, factor, tile, first);
        arrive();
        if (side == 0) d.transform_rows(a, grad, tile, first);
        other.transform_rows(a, factor, tile, first);
        __syncthreads();
        if (side == 0) d.transform_column();
        other.template convolve_column<true>(d);
        __syncthreads();
        other.write_rows(window_of<P>(a, Of<T>{side ? a.dk : a.dq}, tile, 0, first + d.c));
        __syncthreads();
      }
    }
  }
};

}  // namespace
}  // namespace moce
