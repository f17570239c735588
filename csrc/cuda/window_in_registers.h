// Windows of 4: in the registers of one thread. Part of window_fft_device.h.
#pragma once

namespace moce {
namespace {

template <int P>
struct InRegisters {
  // Elements as they are in memory. All are loaded before the first is used: what the compiler is
  // free to move, it loads one by one, and waits for each.
  template <class E>
  struct Loaded {
    E x[P][P];

    __device__ explicit Loaded(const Window<E>& window) {
      unroll<P * P>([&](auto i) {
        constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
        x[y][c] = static_cast<E>(0.f);
        if (y < window.rows && c < window.columns)
          x[y][c] = window.data[y * window.row + c * window.column];
      });
    }
    __device__ void spectrum(float (&z)[P][P]) const {
      unroll<P * P>([&](auto i) {
        constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
        z[y][c] = static_cast<float>(x[y][c]);
      });
      window_fft<P>(z);
    }
  };
  template <class E>
  static __device__ void write(const Window<E>& window, const float (&x)[P][P]) {
    unroll<P>([&](auto y) { window.put_row(decltype(y)::value, x[decltype(y)::value]); });
  }
  template <bool Conjugate>
  static __device__ void inverse(const float (&a)[P][P], float (&x)[P][P]) {
    inverse_window_fft<P, Conjugate>(
        [&](auto y, auto x) { return a[decltype(y)::value][decltype(x)::value]; }, x);
  }

  // Calls f(window, channel) as often in all threads, with a channel beyond the tile's where none is
  // left; neighbours in memory for neighbouring threads.
  template <class F>
  static __device__ void for_items(const WindowFftConv& a, const Tile& tile, F&& f) {
    const int channels = static_cast<int>(tile.channels), items = tile.windows * channels;
    for (int first = 0; first < items; first += blockDim.x) {
      const int i = first + threadIdx.x;
      const int w = a.channels_last ? i / channels : i % tile.windows;
      const int c = a.channels_last ? i % channels : i / tile.windows;
      f(i < items ? w : 0, i < items ? c : channels);
    }
  }

  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out, float*) {
    for_items(a, tile, [&](int w, int c) {
      const Loaded<T> q(window_of<P>(a, Of<T>{a.q}, tile, w, c));
      const Loaded<T> k(window_of<P>(a, Of<T>{a.k}, tile, w, c));
      __syncwarp();
      float x[P][P], z[P][P];
      q.spectrum(x);
      k.spectrum(z);
      inverse<false>(x, z);
      write(window_of<P>(a, out, tile, w, c), z);
    });
  }

  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad,
                                   float*) {
    for_items(a, tile, [&](int w, int c) {
      const Loaded d(window_of<P>(a, grad, tile, w, c));
      const Loaded<T> q(window_of<P>(a, Of<T>{a.q}, tile, w, c));
      const Loaded<T> k(window_of<P>(a, Of<T>{a.k}, tile, w, c));
      __syncwarp();
      float x[P][P], z[P][P];
      d.spectrum(x);
      k.spectrum(z);
      inverse<true>(x, z);
      write(window_of<P>(a, Of<T>{a.dq}, tile, w, c), z);
      q.spectrum(z);
      inverse<true>(x, z);
      write(window_of<P>(a, Of<T>{a.dk}, tile, w, c), z);
    });
  }
};

}  // namespace
}  // namespace moce
