// Window FFT attention of one strip of windows, forward and backward.
#pragma once

#include "fft_attention_kernel.h"
#include "window_strip.h"

namespace moce {
inline namespace MOCE_ISA {

template <int P, int W, class T>
struct AttentionStrip : WindowStrip<P, W, T> {
  using Base = WindowStrip<P, W, T>;
  using typename Base::Fft;
  using typename Base::V;
  using Base::b, Base::y, Base::x, Base::h, Base::w, Base::blocks, Base::last, Base::windows;
  using Base::kRow, Base::kBlock, Base::blocks_of, Base::channels, Base::origin, Base::block;
  using Base::buffered, Base::gather_all, Base::scatter_all, Base::scatter_indirect;
  using Base::forward_rows, Base::inverse_rows;

  const FftAttention& a;  // Base's, with all that it has

  AttentionStrip(const FftAttention& a, int64_t i) : Base(a, i), a(a) {}

  // Mean and 1 / sqrt(variance + eps) over the channels of W neighbouring pixels, in two passes.
  // Lanes beyond the last channel hold zeros.
  struct Moments {
    alignas(64) float mean[W], rstd[W];
  };
  MOCE_INLINE void moments(const float* mixed, Moments& out) const {
    V sum[W] = {}, squares[W] = {};
    for (int i = 0; i < blocks; i++)
      for (int p = 0; p < W; p++) sum[p] += load<W>(mixed + i * kBlock + p * W);
    store<W>(out.mean, sum_each<W>(sum) / float(a.C));
    for (int i = 0; i < blocks; i++) {
      const V mask = first_lanes<W>(channels(i));
      for (int p = 0; p < W; p++) {
        const V d = (load<W>(mixed + i * kBlock + p * W) - out.mean[p]) * mask;
        squares[p] += d * d;
      }
    }
    const V variance = sum_each<W>(squares) / float(a.C) + a.eps;
    for (int p = 0; p < W; p++) out.rstd[p] = 1.f / __builtin_sqrtf(variance[p]);
  }

  // A block of the pixels of one row, from column c on, in the tensor.
  struct Pixels {
    T* data;
    int64_t column;
    bool adjacent;  // whether its channels are
    MOCE_INLINE T* at(int p) const { return data + p * column; }
    // For loads: the next strip's pixel is fetched meanwhile.
    MOCE_INLINE const T* ahead(int p) const {
      __builtin_prefetch(at(p + kColumns));
      return at(p);
    }
  };
  MOCE_INLINE Pixels pixels(const Strided& s, int r, int c, int i) const {
    return {origin(s, i) + r * s.h + c * s.w, s.w, s.c == 1};
  }

  // f(r, c, m) for every group of W columns with its m > 0 columns inside the tensor.
  template <class F>
  MOCE_INLINE void for_groups(F&& f) const {
    for (int r = 0; r < h; r++)
      for (int c = 0; c < w; c += W) f(r, c, w - c < W ? w - c : W);
  }
  // f(i, load, store) for every block, with its way to read and write channels in a tensor.
  template <class F>
  MOCE_INLINE void for_blocks(F&& f) const {
    const auto load_all = [](const T* p) { return load<W>(p); };
    const auto store_all = [](T* p, V x) { store<W>(p, x); };
    for (int i = 0; i < blocks - 1; i++) f(i, load_all, store_all);
    if (last == W) f(blocks - 1, load_all, store_all);
    else
      f(blocks - 1, [n = last](const T* p) { return load_first<W>(p, n); },
        [n = last](T* p, V x) { store_first<W>(p, x, n); });
  }

  // weight and bias with zeros up to whole vectors, at the head of the scratch
  static void pad_norm(const FftAttention& a, float* scratch) {
    const int64_t n = int64_t{blocks_of(a)} * W;
    for (int64_t i = 0; i < n; i++) {
      scratch[i] = i < a.C ? a.weight[i] : 0.f;
      scratch[n + i] = i < a.C ? a.bias[i] : 0.f;
    }
  }

  // scratch: weight, bias | mixed | q's copy, then v where its channels are not adjacent
  static int64_t forward_scratch(const FftAttention& a) {
    const int64_t n = blocks_of(a);
    return 2 * n * W + 2 * n * kBlock;
  }
  void forward(float* scratch) const {
    const float *weight = scratch, *bias = weight + blocks * W;
    float *mixed = scratch + 2 * blocks * W, *v = mixed + blocks * kBlock;
    Base::template convolve<false>(v, mixed, nullptr, [&](int i) { return buffered(mixed, i); });
    if (a.v.c != 1) gather_all(a.v, v);
    for_groups([&](int r, int c, int m) MOCE_INLINE_LAMBDA {
      float *group = mixed + r * kRow + c * W, *v_group = v + r * kRow + c * W;
      Moments at;
      moments(group, at);
      for_blocks([&](int i, auto load_t, auto store_t) MOCE_INLINE_LAMBDA {
        const V scale = load<W>(weight + i * W), shift = load<W>(bias + i * W);
        const Pixels v_in = pixels(a.v, r, c, i), out = pixels(a.out, r, c, i);
        for (int p = 0; p < m; p++) {
          float* mix = group + i * kBlock + p * W;
          const V value = v_in.adjacent ? load_t(v_in.ahead(p)) : load<W>(v_group + i * kBlock + p * W);
          const V y = ((load<W>(mix) - at.mean[p]) * at.rstd[p] * scale + shift) * value;
          if (out.adjacent) store_t(out.at(p), y);
          else store<W>(mix, y);
        }
      });
    });
    if (a.out.c != 1) scatter_all(mixed, a.out);
  }

  // scratch: weight, bias | sums of dweight, dbias | mixed, then dq | q's copy, then v, then dv |
  //          grad, then dk | spectra of q and k
  static int64_t backward_scratch(const FftAttention& a) {
    const int64_t n = blocks_of(a);
    return 4 * n * W + 5 * n * kBlock;
  }
  void backward(float* scratch) const {
    const int64_t tensor = blocks * kBlock;
    const bool in_place = a.v.c == 1 && a.grad.c == 1 && a.dv.c == 1;
    const float *weight = scratch, *bias = weight + blocks * W;
    float *dweight = scratch + 2 * blocks * W, *dbias = dweight + blocks * W;
    float *mixed = dbias + blocks * W, *v = mixed + tensor, *grad = v + tensor;
    float* spectra = grad + tensor;
    Base::template convolve<true>(v, mixed, spectra, [&](int i) { return buffered(mixed, i); });
    if (!in_place) {
      gather_all(a.v, v);
      gather_all(a.grad, grad);
    }
    if (h < P || w < kColumns)  // beyond the tensor dm is zero
      for (int r = 0; r < P; r++)
        for (int c = r < h ? w : 0; c < kColumns; c++)
          for (int i = 0; i < blocks; i++) store<W>(mixed + i * kBlock + r * kRow + c * W, V{});
    // With n the normalised value: dn = grad v weight, dm = rstd (dn - mean(dn) - n mean(dn n)).
    for_groups([&](int r, int c, int m) MOCE_INLINE_LAMBDA {
      const int64_t group = r * kRow + c * W;
      Moments at;
      moments(mixed + group, at);
      V sum[W] = {}, sum_n[W] = {};
      for_blocks([&](int i, auto load_t, auto store_t) MOCE_INLINE_LAMBDA {
        const V scale = load<W>(weight + i * W), shift = load<W>(bias + i * W);
        const Pixels v_in = pixels(a.v, r, c, i), grad_in = pixels(a.grad, r, c, i);
        const Pixels dv_out = pixels(a.dv, r, c, i);
        V dw = load<W>(dweight + i * W), db = load<W>(dbias + i * W);
        for (int p = 0; p < m; p++) {
          const int64_t o = i * kBlock + group + p * W;
          const V g = in_place ? load_t(grad_in.ahead(p)) : load<W>(grad + o);
          const V value = in_place ? load_t(v_in.ahead(p)) : load<W>(v + o);
          const V n = (load<W>(mixed + o) - at.mean[p]) * at.rstd[p];
          const V gv = g * value, dn = gv * scale, dv = g * (n * scale + shift);
          if (in_place) store_t(dv_out.at(p), dv);
          else store<W>(v + o, dv);
          store<W>(grad + o, dn);
          dw += gv * n;
          db += gv;
          sum[p] += dn;
          sum_n[p] += dn * n;
        }
        store<W>(dweight + i * W, dw);
        store<W>(dbias + i * W, db);
      });
      alignas(64) float mean_dn[W], mean_dn_n[W];
      store<W>(mean_dn, sum_each<W>(sum) / float(a.C));
      store<W>(mean_dn_n, sum_each<W>(sum_n) / float(a.C));
      for (int i = 0; i < blocks; i++) {
        const V mask = first_lanes<W>(channels(i));
        for (int p = 0; p < m; p++) {
          const int64_t o = i * kBlock + group + p * W;
          const V n = (load<W>(mixed + o) - at.mean[p]) * at.rstd[p];
          const V dm = load<W>(grad + o) - mean_dn[p] - n * mean_dn_n[p];
          store<W>(mixed + o, dm * (mask * at.rstd[p]));
        }
      }
    });
    if (!in_place) scatter_all(v, a.dv);
    alignas(64) float dq_rows[Fft::kRows], dk_rows[Fft::kRows];
    for (int n = 0; n < windows(); n++)
      for (int i = 0; i < blocks; i++, spectra += 2 * Fft::kArea) {
        forward_rows(buffered(mixed, i), n, dq_rows);
        Fft::correlate_spectra(dq_rows, dk_rows, spectra, spectra + Fft::kArea);
        inverse_rows(dq_rows, block(a.dq, i, mixed), n);
        inverse_rows(dk_rows, block(a.dk, i, grad), n);
      }
    scatter_indirect(mixed, a.dq);
    scatter_indirect(grad, a.dk);
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
