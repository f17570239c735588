// Circular convolution of one strip of windows and its gradients.
#pragma once

#include "moce/window_fft.h"
#include "pixels.h"
#include "window_fft_conv_kernel.h"

namespace moce {
inline namespace MOCE_ISA {

// Windows are walked in strips: P rows of kColumns columns, that is one window of 32 or several
// smaller ones. Tensors whose vectors cannot be loaded in place (channels not adjacent or no
// multiple of W, 16-bit storage, a ragged edge) are copied strip by strip to
// float buffers [P][kColumns][W], one for each block of W channels, zero beyond the tensor.
constexpr int kColumns = 32;

// W channels of a strip as float vectors: vector (r, c) lies at data + r * row + c * column.
struct Block {
  float* data;
  int64_t row, column;
};

template <int P, int W, class T>
struct WindowStrip {
  using Fft = WindowFft<P, W>;
  using V = Vec<W>;
  static constexpr int kRow = kColumns * W;      // floats of a buffer's row
  static constexpr int64_t kBlock = P * kRow;    // of a block's buffer

  const WindowFftConv& a;
  const int blocks, last;  // blocks of W channels, and channels in the last of them
  int64_t b, y, x;         // which image, and where in it
  int h, w;                // how much of the strip lies inside

  static int blocks_of(const WindowFftConv& a) { return int((a.C + W - 1) / W); }

  WindowStrip(const WindowFftConv& a, int64_t i)
      : a(a), blocks(blocks_of(a)), last(int(a.C) - (blocks - 1) * W) {
    const int64_t columns = (a.W + kColumns - 1) / kColumns, rows = (a.H + P - 1) / P;
    x = i % columns * kColumns;
    y = i / columns % rows * P;
    b = i / columns / rows;
    h = a.H - y < P ? int(a.H - y) : P;
    w = a.W - x < kColumns ? int(a.W - x) : kColumns;
  }

  T* origin(const Strided& s, int block) const {
    return static_cast<T*>(s.data) + b * s.b + y * s.h + x * s.w + int64_t{block} * W * s.c;
  }
  int channels(int block) const { return block == blocks - 1 ? last : W; }
  int windows() const { return (w + P - 1) / P; }

  // Whether vectors can be loaded and stored in the tensor itself.
  bool direct(const Strided& s, int block) const {
    return sizeof(T) == sizeof(float) && s.c == 1 && h == P && w % P == 0 && channels(block) == W;
  }

  static Block buffered(float* copy, int i) { return {copy + i * kBlock, kRow, W}; }
  // A block in the tensor itself where that can be, else in the strip's buffer `copy`.
  Block block(const Strided& s, int i, float* copy) const {
    if (direct(s, i)) return {reinterpret_cast<float*>(origin(s, i)), s.h, s.w};
    return buffered(copy, i);
  }
  void gather_indirect(const Strided& s, float* copy) const {
    for (int i = 0; i < blocks; i++)
      if (!direct(s, i)) gather(s, i, copy + i * kBlock);
  }
  void scatter_indirect(const float* copy, const Strided& s) const {
    for (int i = 0; i < blocks; i++)
      if (!direct(s, i)) scatter(copy + i * kBlock, s, i);
  }
  void gather_all(const Strided& s, float* copy) const {
    for (int i = 0; i < blocks; i++) gather(s, i, copy + i * kBlock);
  }
  void scatter_all(const float* copy, const Strided& s) const {
    for (int i = 0; i < blocks; i++) scatter(copy + i * kBlock, s, i);
  }

  MOCE_NOINLINE void gather(const Strided& s, int i, float* copy) const {
    if (h < P || w < kColumns)
      for (int64_t o = 0; o < kBlock; o += W) store<W>(copy + o, V{});
    for (int r = 0; r < h; r++)
      gather_pixels<W>(origin(s, i) + r * s.h, s, channels(i), w, copy + r * kRow, W);
  }
  MOCE_NOINLINE void scatter(const float* copy, const Strided& s, int i) const {
    for (int r = 0; r < h; r++)
      scatter_pixels<W>(copy + r * kRow, W, origin(s, i) + r * s.h, s, channels(i), w);
  }

  // The convolution of q and k, block i of it to place(i). With `Keep`, their spectra stay in
  // `spectra`, 2 kArea floats for each window and block. q_copy and k_copy are buffers of a strip;
  // each window of k is read before its result is written.
  template <bool Keep, class Place>
  MOCE_INLINE void convolve(float* q_copy, float* k_copy, float* spectra, Place&& place) const {
    alignas(64) float q_rows[Fft::kRows], k_rows[Fft::kRows];
    gather_indirect(a.q, q_copy);
    gather_indirect(a.k, k_copy);
    for (int n = 0; n < windows(); n++)
      for (int i = 0; i < blocks; i++, spectra += Keep ? 2 * Fft::kArea : 0) {
        forward_rows(block(a.q, i, q_copy), n, q_rows);
        forward_rows(block(a.k, i, k_copy), n, k_rows);
        Fft::template convolve<Keep>(q_rows, k_rows, spectra, spectra + Fft::kArea);
        inverse_rows(q_rows, place(i), n);
      }
  }

  // Window n of a block.
  static MOCE_INLINE void forward_rows(const Block& x, int n, float* rows) {
    Fft::forward_rows(x.data + n * P * x.column, x.row, x.column, rows);
  }
  static MOCE_INLINE void inverse_rows(const float* rows, const Block& x, int n) {
    Fft::inverse_rows(rows, 1.f / (P * P), x.data + n * P * x.column, x.row, x.column);
  }

  static int64_t forward_scratch(const WindowFftConv& a) { return 2 * blocks_of(a) * kBlock; }
  void forward(float* scratch) const {
    float *k = scratch, *q = k + blocks * kBlock;
    convolve<false>(q, k, nullptr, [&](int i) { return block(a.out, i, k); });
    scatter_indirect(k, a.out);
  }

  static int64_t backward_scratch(const WindowFftConv& a) { return 3 * blocks_of(a) * kBlock; }
  void backward(float* scratch) const {
    float *d = scratch, *q = d + blocks * kBlock, *k = q + blocks * kBlock;
    alignas(64) float d_rows[Fft::kRows], q_rows[Fft::kRows], k_rows[Fft::kRows];
    gather_indirect(a.grad, d);
    gather_indirect(a.q, q);
    gather_indirect(a.k, k);
    for (int n = 0; n < windows(); n++)
      for (int i = 0; i < blocks; i++) {
        forward_rows(block(a.grad, i, d), n, d_rows);
        forward_rows(block(a.q, i, q), n, q_rows);
        forward_rows(block(a.k, i, k), n, k_rows);
        Fft::correlate_rows(d_rows, q_rows, k_rows);
        inverse_rows(d_rows, block(a.dq, i, d), n);
        inverse_rows(q_rows, block(a.dk, i, q), n);
      }
    scatter_indirect(d, a.dq);
    scatter_indirect(q, a.dk);
  }
};

// f(Int<window>).
template <class F>
auto with_window(int window, F&& f) {
  switch (window) {
    case 4: return f(Int<4>{});
    case 8: return f(Int<8>{});
    case 16: return f(Int<16>{});
    default: return f(Int<32>{});
  }
}

// f(Kernel<window, W, element type>()) with the widest vectors whose lanes the channels fill well.
template <template <int, int, class> class Kernel, int P, class T, class F>
auto with_width(const WindowFftConv& a, F&& f) {
#if MOCE_LANES >= 16
  if (a.C > 8) return f(Kernel<P, 16, T>{});
#endif
#if MOCE_LANES >= 8
  if (a.C > 4) return f(Kernel<P, 8, T>{});
#endif
  return f(Kernel<P, 4, T>{});
}
template <template <int, int, class> class Kernel, class F>
auto dispatch(const WindowFftConv& a, F&& f) {
  return with_window(a.window, [&](auto window) {
    constexpr int P = decltype(window)::value;
    switch (a.type) {
      case Type::kBFloat16: return with_width<Kernel, P, BFloat16>(a, f);
      case Type::kHalf: return with_width<Kernel, P, Half>(a, f);
      default: return with_width<Kernel, P, float>(a, f);
    }
  });
}

}  // namespace MOCE_ISA
}  // namespace moce
