// Windows of 4: two channels of one in the registers of one thread. Part of window_fft_device.h.
#pragma once

namespace moce {
namespace {

template <int P>
struct InRegisters {
  // Elements as they are in memory. All are loaded before the first is used: what the compiler is
  // free to move, it loads one by one, and waits for each.
  template <class E>
  struct Loaded {
    Packed<E, 2> x[P][P];

    __device__ explicit Loaded(const Window<E>& window) {
      if (window.together && window.channels == 2)
        load<true>(window);
      else
        load<false>(window);
    }
    template <bool Together>
    __device__ void load(const Window<E>& window) {
      unroll<P * P>([&](auto i) {
        constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
        x[y][c] = window.template get<Together>(y, c);
      });
    }
    __device__ void spectrum(Pair (&z)[P][P]) const {
      unroll<P * P>([&](auto i) {
        constexpr int y = decltype(i)::value / P, c = decltype(i)::value % P;
        float pair[2];
        unpack<E, 2>(x[y][c], pair);
        z[y][c] = {pair[0], pair[1]};
      });
      window_fft<P>(z);
    }
  };

  // The window of a pair of channels in shared memory: 16 bytes for two pixels.
  struct Slots {
    int start, slot, channels;

    __device__ float* at(int y, int x) const {
      return shared_memory() + (start + (y * P + x) / 2 * slot);
    }
    __device__ void put(const Pair (&z)[P][P]) const {
      if (channels <= 0) return;
      unroll<P * P / 2>([&](auto i) {
        constexpr int y = 2 * decltype(i)::value / P, x = 2 * decltype(i)::value % P;
        const float pixels[4] = {z[y][x].a, z[y][x + 1].a, z[y][x].b, z[y][x + 1].b};
        put_floats(at(y, x), pixels);
      });
    }
    __device__ void spectrum(Pair (&z)[P][P]) const {
      unroll<P * P / 2>([&](auto i) {
        constexpr int y = 2 * decltype(i)::value / P, x = 2 * decltype(i)::value % P;
        Floats<4> pixels{};
        if (channels > 0) pixels = get_floats<4>(at(y, x));
        const bool two = channels > 1;
        z[y][x] = {pixels.v[0], two ? pixels.v[2] : 0.f};
        z[y][x + 1] = {pixels.v[1], two ? pixels.v[3] : 0.f};
      });
      window_fft<P>(z);
    }
  };

  template <class E>
  static __device__ Window<E> window(const WindowFftConv& a, const Of<E>& of, const Tile& tile, int w,
                                     int c) {
    return window_of<P>(a, of, tile, w, c);
  }
  static __device__ Slots window(const WindowFftConv&, const Mixed& m, const Tile& tile, int w,
                                 int c) {
    return {m.start + w * (P * P / 2) * m.slot + 2 * c, m.slot, tile.channels - c};
  }
  template <class E>
  static __device__ Loaded<E> loaded(const Window<E>& window) {
    return Loaded<E>(window);
  }
  static __device__ Slots loaded(const Slots& slots) { return slots; }

  template <class E>
  static __device__ void put(const Window<E>& window, const Pair (&x)[P][P]) {
    unroll<P>([&](auto y) { window.put_row(decltype(y)::value, x[decltype(y)::value]); });
  }
  static __device__ void put(const Slots& slots, const Pair (&x)[P][P]) { slots.put(x); }

  template <bool Conjugate>
  static __device__ void inverse(const Pair (&a)[P][P], Pair (&x)[P][P]) {
    inverse_window_fft<P, Conjugate>(
        [&](auto y, auto x) { return a[decltype(y)::value][decltype(x)::value]; }, x);
  }

  // Calls f(window, channel) as often in all threads of a warp, with a channel beyond the tile's where
  // none is left; neighbours in memory for neighbouring threads.
  template <class F>
  static __device__ void for_items(const WindowFftConv& a, const Tile& tile, F&& f) {
    const int channels = tile.channels, pairs = (channels + 1) / 2;
    const int items = tile.windows * pairs;
    for (int first = threadIdx.x / 32 * 32; first < items; first += blockDim.x) {
      const int i = first + threadIdx.x % 32;
      const int w = a.channels_last ? i / pairs : i % tile.windows;
      const int pair = a.channels_last ? i % pairs : i / tile.windows;
      f(i < items ? w : 0, i < items ? 2 * pair : channels);
    }
  }

  template <class To>
  static __device__ void convolve(const WindowFftConv& a, const Tile& tile, const To& out) {
    for_items(a, tile, [&](int w, int c) {
      const Loaded<T> q(window(a, Of<T>{a.q}, tile, w, c)), k(window(a, Of<T>{a.k}, tile, w, c));
      __syncwarp();
      Pair x[P][P], z[P][P];
      q.spectrum(x);
      k.spectrum(z);
      inverse<false>(x, z);
      put(window(a, out, tile, w, c), z);
    });
  }

  template <class From>
  static __device__ void correlate(const WindowFftConv& a, const Tile& tile, const From& grad) {
    for_items(a, tile, [&](int w, int c) {
      const auto d = loaded(window(a, grad, tile, w, c));
      const Loaded<T> q(window(a, Of<T>{a.q}, tile, w, c)), k(window(a, Of<T>{a.k}, tile, w, c));
      __syncwarp();
      Pair x[P][P], z[P][P];
      d.spectrum(x);
      k.spectrum(z);
      inverse<true>(x, z);
      put(window(a, Of<T>{a.dq}, tile, w, c), z);
      q.spectrum(z);
      inverse<true>(x, z);
      put(window(a, Of<T>{a.dk}, tile, w, c), z);
    });
  }
};

}  // namespace
}  // namespace moce
