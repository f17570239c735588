// Windows of 8 to 32: rows, then columns, in the registers of a part of a block. Part of
// window_fft_device.h.
//
// Each step has its own access to memory: all elements of a window are copied to shared memory at
// once, as they are; each thread transforms its rows there, in their place, two channels at once; then
// its columns. What comes out goes from registers to memory.
#pragma once

#include "copy_async.h"

namespace moce {
namespace {

template <int P>
struct InRowsAndColumns {
  static constexpr int G = channels_together(P), kColumns = columns_together(P);
  static constexpr int kPart = part_threads(P), kPairs = G / 2, kRows = kPart / kPairs;
  static constexpr int kSlot = slot_floats(P), kRow = row_floats(P);
  static_assert(32 % kPairs == 0, "a row is transformed by lanes of one warp");

  // The number of this thread in its part, and the part's barrier.
  static __device__ int thread() {
    const auto i = static_cast<unsigned>(opaque(static_cast<int>(threadIdx.x)));
    return static_cast<int>(i % kPart);
  }
  static __device__ void sync() {
    if constexpr (kPart == 32)
      __syncwarp();
    else
      __barrier_sync_count(1 + threadIdx.x / kPart, kPart);
  }

  // Of G channels of a window. Slot (row, j) has the complex column j of all channels, before and after
  // that two neighbouring numbers of the window. Before its transform a row holds the elements of its
  // pixels, G channels each.
  struct Matrix {
    float* data;

    __device__ float* slot(int row, int j, int channel) const {
      return data + row * kRow + j * kSlot + 2 * channel;
    }
    // Shifted, so that rows that are read together are in other banks.
    template <class E>
    __device__ E* element(int y, int x, int channel) const {
      const int shift = P == 8 ? y / 2 % 2 * 8 : P == 16 ? y % 2 * 16 + y / 2 % 2 * 8 : y / 2 % 4 * 4;
      return reinterpret_cast<E*>(data + y * kRow + shift) + x * G + channel;
    }

    // Fetches G channels, from that of `window` on; zeros where there are none.
    template <int N, class E>
    __device__ void copy(const Window<E>& window, int channels) const {
      constexpr int kTogether = N / int{sizeof(E)}, kChunks = G / kTogether;
      constexpr int kStep = kPart / kChunks;  // pixels
      static_assert(kTogether >= 1 && kPart % kChunks == 0 && (kStep % P == 0 || P % kStep == 0));
      constexpr int kAcross = kStep < P ? P / kStep : 1, kDown = kStep < P ? 1 : kStep / P;
      const int channel = thread() % kChunks * kTogether;
      const int pixel = thread() / kChunks, x = pixel % P, y = pixel / P;
      const E* from = window.data + (y * window.row + x * window.column + channel);
      const int rows = channel < channels ? window.rows - y : 0;
#pragma unroll(kAcross == 1 ? 4 : 1)
      for (int down = 0; down < P; down += kDown) {
        unroll<kAcross>([&](auto i) {
          constexpr int right = decltype(i)::value * kStep;
          copy_async<N>(element<E>(y + down, x + right, channel), from + right * window.column,
                        down < rows && x + right < window.columns);
        });
        from += kDown * window.row;
      }
    }
    // The same, element by element.
    template <class E>
    __device__ void copy_elements(const Window<E>& window, int channels) const {
#pragma unroll 4
      for (int i = thread(); i < P * P * G; i += kPart) {
        const int pixel = window.next == 1 ? i / G : i % (P * P), x = pixel % P, y = pixel / P;
        const int channel = window.next == 1 ? i % G : i / (P * P);
        E value = static_cast<E>(0.f);
        if (window.has(y, x) && channel < channels)
          value = window.data[y * window.row + x * window.column + channel * window.next];
        *element<E>(y, x, channel) = value;
      }
    }
    template <class E>
    __device__ void fetch(const WindowFftConv& a, const Of<E>& of, const Tile& tile,
                          int first) const {
      const Window<E> window = window_of<P>(a, of, tile, 0, first);
      const int channels = min(G, tile.channels - first);
      switch (of.tensor.chunk) {
        case 16: return copy<16>(window, channels);
        case 8: return copy<8>(window, channels);
        case 4: return copy<4>(window, channels);
        default: return copy_elements(window, channels);
      }
    }

    // Calls f(row, pair of channels) for the rows of this thread.
    template <class F>
    __device__ void for_rows(F&& f) const {
#pragma unroll 1
      for (int y = thread() / kPairs; y < P; y += kRows) f(y, thread() % kPairs * 2);
    }
    __device__ void transform_row(int y, int channel, const Pair (&x)[P]) const {
      Pair z[P];
      real_fft<P, Pair>([&](auto n) { return x[decltype(n)::value]; },
                        [&](auto k, Pair value) { z[decltype(k)::value] = value; });
      put_row(y, channel, z);
    }
    __device__ void put_row(int y, int channel, const Pair (&z)[P]) const {
      unroll<P / 2>([&](auto i) {
        constexpr int j = decltype(i)::value;
        const float both[4] = {z[2 * j].a, z[2 * j + 1].a, z[2 * j].b, z[2 * j + 1].b};
        put_floats(slot(y, j, channel), both);
      });
    }
    __device__ void get_row(int y, int channel, Pair (&z)[P]) const {
      unroll<P / 2>([&](auto i) {
        constexpr int j = decltype(i)::value;
        const Floats<4> both = get_floats<4>(slot(y, j, channel));
        z[2 * j] = {both.v[0], both.v[2]};
        z[2 * j + 1] = {both.v[1], both.v[3]};
      });
    }
    template <class E>
    __device__ void transform_rows(const Of<E>&) const {
      for_rows([&](int y, int channel) {
        Packed<E, 2> raw[P];
        unroll<P>([&](auto n) {
          constexpr int i = decltype(n)::value;
          raw[i] = get_packed<E, 2>(element<E>(y, i, channel));
        });
        __syncwarp();  // the row's other channels are read where this one is written
        Pair x[P];
        unroll<P>([&](auto n) {
          float pair[2];
          unpack<E, 2>(raw[decltype(n)::value], pair);
          x[decltype(n)::value] = {pair[0], pair[1]};
        });
        transform_row(y, channel, x);
      });
    }
    __device__ void transform_rows(const Mixed&) const {
      for_rows([&](int y, int channel) {
        Pair x[P];
        get_row(y, channel, x);
        transform_row(y, channel, x);
      });
    }
    // f(row, channel, values): where they go.
    template <class F>
    __device__ void inverse_rows(F&& f) const {
      for_rows([&](int y, int channel) {
        Pair z[P], x[P];
        get_row(y, channel, z);
        inverse_real_fft<P, Pair>(
            [&](auto k) { return z[decltype(k)::value]; },
            [&](auto n, Pair value) { x[decltype(n)::value] = value; });
        f(y, channel, x);
      });
    }
    __device__ void write_rows(const WindowFftConv&, const Mixed&, const Tile&, int) const {
      inverse_rows([&](int y, int channel, const Pair(&x)[P]) { put_row(y, channel, x); });
    }
    template <class E>
    __device__ void write_rows(const WindowFftConv& a, const Of<E>& of, const Tile& tile,
                               int first) const {
      const auto window = window_of<P>(a, of, tile, 0, first + thread() % kPairs * 2);
      inverse_rows([&](int y, int, const Pair(&x)[P]) { window.put_row(y, x); });
    }

    // Calls f(column, channel) for the complex columns of this thread.
    template <class F>
    __device__ void for_columns(F&& f) const {
#pragma unroll 1
      for (int j = thread() / G; j < P / 2; j += kColumns) f(j, thread() % G);
    }
    __device__ void get_column(int j, int channel, Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) {
        const Floats<2> both = get_floats<2>(slot(decltype(i)::value, j, channel));
        z[decltype(i)::value] = {both.v[0], both.v[1]};
      });
    }
    __device__ void put_column(int j, int channel, const Complex<float> (&z)[P]) const {
      unroll<P>([&](auto i) {
        const float both[2] = {z[decltype(i)::value].re, z[decltype(i)::value].im};
        put_floats(slot(decltype(i)::value, j, channel), both);
      });
    }
    __device__ void transform_column(int j, int channel) const {
      Complex<float> z[P];
      get_column(j, channel, z);
      column_fft<P>(z);
      put_column(j, channel, z);
    }
    // A column back from its product with one of `a`, which is transformed already, or not yet. There
    // are registers for both at windows of 8 alone; else a's is read where it is needed.
    template <bool Conjugate, bool Transformed>
    __device__ void convolve_column(const Matrix& a, int j, int channel) const {
      constexpr bool kBoth = P == 8 && !Transformed;
      Complex<float> z[P], x[P];
      if constexpr (kBoth) {
        a.get_column(j, channel, x);
        column_fft<P>(x);
      } else if constexpr (!Transformed) {
        a.transform_column(j, channel);
      }
      get_column(j, channel, z);
      column_fft<P>(z);
      keep_order();
      multiply_column<P, Conjugate>(
          [&](auto f) {
            constexpr int i = decltype(f)::value;
            if constexpr (kBoth) return x[i];
            const auto both = get_floats<2>(a.slot(i, j, channel));
            return Complex<float>{both.v[0], both.v[1]};
          },
          z, j == 0);
      inverse_column_fft<P>(z);
      put_column(j, channel, z);
    }
  };

  static __device__ void arrive() {
    await_copies();
    sync();
  }

  // Of G channels from `first` on. q and k: matrices of the part; k holds the result if out is Mixed.
  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out,
                                  int first, Matrix q, Matrix k) {
    q.fetch(a, Of<T>{a.q}, tile, first);
    k.fetch(a, Of<T>{a.k}, tile, first);
    arrive();
#pragma unroll(P == 32 ? 1 : 2)  // the code once for both, where there would be much to fetch
    for (int side = 0; side < 2; side++)
      Matrix{side ? k.data : q.data}.transform_rows(Of<T>{side ? a.k : a.q});
    sync();
    k.for_columns([&](int j, int channel) {
      k.template convolve_column<false, false>(q, j, channel);
    });
    sync();
    k.write_rows(a, out, tile, first);
  }

  // d: a matrix for the gradient, which is there already if it is Mixed; `other` for q and k.
  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad,
                                   int first, Matrix d, Matrix other) {
    if constexpr (!std::is_same_v<From, Mixed>) d.fetch(a, grad, tile, first);
#pragma unroll 1
    for (int side = 0; side < 2; side++) {
      const Of<T> factor{side ? a.q : a.k};
      other.fetch(a, factor, tile, first);
      arrive();
      if (side == 0) d.transform_rows(grad);
      other.transform_rows(factor);
      sync();
      d.for_columns([&](int j, int channel) {
        if (side == 0) d.transform_column(j, channel);
        other.template convolve_column<true, true>(d, j, channel);
      });
      sync();
      other.write_rows(a, Of<T>{side ? a.dk : a.dq}, tile, first);
      sync();
    }
  }
};

}  // namespace
}  // namespace moce
