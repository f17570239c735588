// Circular convolution of one strip of windows and its gradients.
//
// Compiling the transforms takes long: they know the windows' size and the width of vectors, and
// nothing of the element type, which only `Strip` and what comes after the transforms look at.
#pragma once

#include "pixels.h"
#include "window_fft.h"
#include "window_fft_conv_kernel.h"

namespace moce {
inline namespace MOCE_ISA {

// W channels of a strip as float vectors: vector (r, c) lies at data + r * row + c * column.
struct Block {
  float* data;
  int64_t row, column;
};

// The memory of a strip. Tensors whose vectors cannot be loaded in place (channels not adjacent or no
// multiple of W, 16-bit storage, a ragged edge) are copied strip by strip to float buffers
// [window][kColumns][W], one for each block of W channels, zero beyond the tensor.
template <int W>
struct Strip {
  using V = Vec<W>;
  static constexpr int kRow = kColumns * W;  // floats of a buffer's row

  const WindowFftConv& a;
  const int blocks, last;      // blocks of W channels, and channels in the last of them
  const int64_t block_floats;  // of a block's buffer
  int64_t b, y, x;             // which image, and where in it
  int h, w;                    // how much of the strip lies inside
  bool in_place;               // whether vectors of whole blocks can be loaded in the tensor itself

  static int blocks_of(const WindowFftConv& a) { return int((a.C + W - 1) / W); }
  static int64_t floats_of(const WindowFftConv& a) { return int64_t{a.window} * kRow; }

  Strip(const WindowFftConv& a, int64_t i)
      : a(a),
        blocks(blocks_of(a)),
        last(int(a.C) - (blocks - 1) * W),
        block_floats(floats_of(a)) {
    const int P = a.window;
    const int64_t columns = (a.W + kColumns - 1) / kColumns, rows = (a.H + P - 1) / P;
    x = i % columns * kColumns;
    y = i / columns % rows * P;
    b = i / columns / rows;
    h = a.H - y < P ? int(a.H - y) : P;
    w = a.W - x < kColumns ? int(a.W - x) : kColumns;
    in_place = a.type == Type::kFloat && h == P && w % P == 0;
  }

  template <class T>
  MOCE_INLINE T* origin(const Strided& s, int block) const {
    return pixel_at<T>(s, b, y, x) + int64_t{block} * W * s.c;
  }
  int channels(int block) const { return block == blocks - 1 ? last : W; }

  MOCE_INLINE bool direct(const Strided& s, int block) const {
    return in_place && s.c == 1 && channels(block) == W;
  }
  MOCE_INLINE Block buffered(float* copy, int i) const {
    return {copy + i * block_floats, kRow, W};
  }
  // A block in the tensor itself where that can be, else in the strip's buffer `copy`.
  MOCE_INLINE Block block(const Strided& s, int i, float* copy) const {
    if (direct(s, i)) return {origin<float>(s, i), s.h, s.w};
    return buffered(copy, i);
  }
  void gather_indirect(const Strided& s, float* copy) const {
    for (int i = 0; i < blocks; i++)
      if (!direct(s, i)) gather(s, i, copy + i * block_floats);
  }
  void scatter_indirect(const float* copy, const Strided& s) const {
    for (int i = 0; i < blocks; i++)
      if (!direct(s, i)) scatter(copy + i * block_floats, s, i);
  }
  void gather_all(const Strided& s, float* copy) const {
    for (int i = 0; i < blocks; i++) gather(s, i, copy + i * block_floats);
  }
  void scatter_all(const float* copy, const Strided& s) const {
    for (int i = 0; i < blocks; i++) scatter(copy + i * block_floats, s, i);
  }

  MOCE_NOINLINE void gather(const Strided& s, int i, float* copy) const {
    if (h < a.window || w < kColumns)
      for (int64_t o = 0; o < block_floats; o += W) store<W>(copy + o, V{});
    with_type(a.type, [&](auto t) {
      const auto* from = origin<decltype(t)>(s, i);
      for (int r = 0; r < h; r++)
        gather_pixels<W>(from + r * s.h, s, channels(i), w, copy + r * kRow, W);
    });
  }
  MOCE_NOINLINE void scatter(const float* copy, const Strided& s, int i) const {
    with_type(a.type, [&](auto t) {
      auto* to = origin<decltype(t)>(s, i);
      for (int r = 0; r < h; r++)
        scatter_pixels<W>(copy + r * kRow, W, to + r * s.h, s, channels(i), w);
    });
  }
};

template <int P, int W>
struct WindowStrip : Strip<W> {
  using Base = Strip<W>;
  using Fft = WindowFft<P, W>;
  using Base::a, Base::blocks, Base::w, Base::block, Base::buffered, Base::block_floats;
  using Base::gather_indirect, Base::scatter_indirect, Base::blocks_of, Base::floats_of;
  using Base::Base;

  int windows() const { return (w + P - 1) / P; }

  // The convolution of q and k: in `out` where blocks of it can be written in place, else, or where
  // there is no `out`, in k_copy. With `Keep`, their spectra stay in `spectra`, 2 kArea floats for
  // each window and block. q_copy and k_copy are buffers of a strip; each window of k is read
  // before its result is written.
  template <bool Keep>
  MOCE_NOINLINE void convolve(float* q_copy, float* k_copy, float* spectra,
                              const Strided* out) const {
    alignas(64) float q_rows[Fft::kRows], k_rows[Fft::kRows];
    gather_indirect(a.q, q_copy);
    gather_indirect(a.k, k_copy);
    for (int n = 0; n < windows(); n++)
      for (int i = 0; i < blocks; i++, spectra += Keep ? 2 * Fft::kArea : 0) {
        forward_rows(block(a.q, i, q_copy), n, q_rows);
        forward_rows(block(a.k, i, k_copy), n, k_rows);
        Fft::template convolve<Keep>(q_rows, k_rows, spectra, spectra + Fft::kArea);
        inverse_rows(q_rows, out ? block(*out, i, k_copy) : buffered(k_copy, i), n);
      }
  }

  // Window n of a block.
  static MOCE_INLINE void forward_rows(const Block& x, int n, float* rows) {
    Fft::forward_rows(x.data + n * P * x.column, x.row, x.column, rows);
  }
  static MOCE_INLINE void inverse_rows(const float* rows, const Block& x, int n) {
    Fft::inverse_rows(rows, 1.f / (P * P), x.data + n * P * x.column, x.row, x.column);
  }

  static int64_t forward_scratch(const WindowFftConv& a) { return 2 * blocks_of(a) * floats_of(a); }
  void forward(float* scratch) const {
    float *k = scratch, *q = k + blocks * block_floats;
    convolve<false>(q, k, nullptr, &a.out);
    scatter_indirect(k, a.out);
  }

  static int64_t backward_scratch(const WindowFftConv& a) {
    return 3 * blocks_of(a) * floats_of(a);
  }
  void backward(float* scratch) const {
    float *d = scratch, *q = d + blocks * block_floats, *k = q + blocks * block_floats;
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

// f(Kernel<window, W>()) with the widest vectors whose lanes the channels fill well.
template <template <int, int> class Kernel, int P, class F>
auto with_width([[maybe_unused]] const WindowFftConv& a, F&& f) {
#if MOCE_LANES >= 16
  if (a.C > 8) return f(Kernel<P, 16>{});
#endif
#if MOCE_LANES >= 8
  if (a.C > 4) return f(Kernel<P, 8>{});
#endif
  return f(Kernel<P, 4>{});
}
template <template <int, int> class Kernel, class F>
auto dispatch(const WindowFftConv& a, F&& f) {
  switch (a.window) {
    case 4: return with_width<Kernel, 4>(a, f);
    case 8: return with_width<Kernel, 8>(a, f);
    case 16: return with_width<Kernel, 16>(a, f);
    default: return with_width<Kernel, 32>(a, f);
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
