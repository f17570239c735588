// Window FFT attention for CPUs: out = LayerNorm_C(q (*) k) * v and its gradients.
//
// Spectra, convolution and normalisation of a strip of windows stay in scratch (for each thread twice
// 32*P*C floats forward and five times that backward, C up to whole vectors); q, k, v are read once and
// the results written once, so the forward pass moves 4 and the backward pass 7 elements for each
// output element. The backward pass recomputes the convolution. Per element: about 15 log2(P) + 11
// float operations forward, 30 log2(P) + 24 backward.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "fft_attention_kernel.h"

#include "vector_math.h"
#include "window_strip.h"

namespace moce {
inline namespace MOCE_ISA {

// Normalisation and product with v of a strip whose convolution `mixed` is in a buffer.
template <int W, class T>
struct Normalised {
  using V = Vec<W>;
  static constexpr int kRow = Strip<W>::kRow;
  const FftAttention& a;
  const Strip<W>& s;
  const int blocks = s.blocks;
  const int64_t block_floats = s.block_floats;

  // Mean and 1 / sqrt(variance + eps) over the channels of W neighbouring pixels, in two passes.
  // Lanes beyond the last channel hold zeros.
  struct Moments {
    alignas(64) float mean[W], rstd[W];
  };
  MOCE_INLINE void moments(const float* mixed, Moments& out) const {
    V sum[W] = {}, squares[W] = {};
    for (int i = 0; i < blocks; i++)
      for (int p = 0; p < W; p++) sum[p] += load<W>(mixed + i * block_floats + p * W);
    store<W>(out.mean, sum_each<W>(sum) / float(a.C));
    for (int i = 0; i < blocks; i++) {
      const V mask = first_lanes<W>(s.channels(i));
      for (int p = 0; p < W; p++) {
        const V d = (load<W>(mixed + i * block_floats + p * W) - out.mean[p]) * mask;
        squares[p] += d * d;
      }
    }
    store<W>(out.rstd, 1.f / sqrt<W>(sum_each<W>(squares) / float(a.C) + a.eps));
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
  MOCE_INLINE Pixels pixels(const Strided& t, int r, int c, int i) const {
    return {s.template origin<T>(t, i) + r * t.h + c * t.w, t.w, t.c == 1};
  }

  // f(r, c, m) for every group of W columns with its m > 0 columns inside the tensor.
  template <class F>
  MOCE_INLINE void for_groups(F&& f) const {
    for (int r = 0; r < s.h; r++)
      for (int c = 0; c < s.w; c += W) f(r, c, s.w - c < W ? s.w - c : W);
  }
  // f(i, load, store) for every block, with its way to read and write channels in a tensor.
  template <class F>
  MOCE_INLINE void for_blocks(F&& f) const {
    const auto load_all = [](const T* p) { return load<W>(p); };
    const auto store_all = [](T* p, V x) { store<W>(p, x); };
    for (int i = 0; i < blocks - 1; i++) f(i, load_all, store_all);
    if (s.last == W) f(blocks - 1, load_all, store_all);
    else
      f(blocks - 1, [n = s.last](const T* p) { return load_first<W>(p, n); },
        [n = s.last](T* p, V x) { store_first<W>(p, x, n); });
  }

  // To out, or to `mixed` where out's channels are not adjacent; v is a buffer where v's are not.
  MOCE_NOINLINE void forward(const float* weight, const float* bias, float* mixed,
                             const float* v) const {
    for_groups([&](int r, int c, int m) MOCE_INLINE_LAMBDA {
      float* group = mixed + r * kRow + c * W;
      const float* v_group = v + r * kRow + c * W;
      Moments at;
      moments(group, at);
      for_blocks([&](int i, auto load_t, auto store_t) MOCE_INLINE_LAMBDA {
        const V scale = load<W>(weight + i * W), shift = load<W>(bias + i * W);
        const Pixels v_in = pixels(a.v, r, c, i), out = pixels(a.out, r, c, i);
        for (int p = 0; p < m; p++) {
          float* mix = group + i * block_floats + p * W;
          const V value =
              v_in.adjacent ? load_t(v_in.ahead(p)) : load<W>(v_group + i * block_floats + p * W);
          const V y = ((load<W>(mix) - at.mean[p]) * at.rstd[p] * scale + shift) * value;
          if (out.adjacent) store_t(out.at(p), y);
          else store<W>(mix, y);
        }
      });
    });
  }

  // With n the normalised value: dn = grad v weight, dm = rstd (dn - mean(dn) - n mean(dn n)), which
  // goes to `mixed`. The gradient of v goes to dv, or without `in_place` from buffers to a buffer,
  // v's. Adds to dweight and dbias; `grad` is overwritten.
  MOCE_NOINLINE void backward(bool in_place, const float* weight, const float* bias,
                              float* dweight, float* dbias, float* mixed, float* v,
                              float* grad) const {
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
          const int64_t o = i * block_floats + group + p * W;
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
        const V mask = first_lanes<W>(s.channels(i));
        for (int p = 0; p < m; p++) {
          const int64_t o = i * block_floats + group + p * W;
          const V n = (load<W>(mixed + o) - at.mean[p]) * at.rstd[p];
          const V dm = load<W>(grad + o) - mean_dn[p] - n * mean_dn_n[p];
          store<W>(mixed + o, dm * (mask * at.rstd[p]));
        }
      }
    });
  }
};

template <int P, int W>
struct AttentionStrip : WindowStrip<P, W> {
  using Base = WindowStrip<P, W>;
  using typename Base::Fft;
  using typename Base::V;
  using Base::h, Base::w, Base::blocks, Base::windows, Base::kRow, Base::block_floats;
  using Base::blocks_of, Base::floats_of, Base::block, Base::buffered, Base::gather_all;
  using Base::scatter_all, Base::scatter_indirect, Base::forward_rows, Base::inverse_rows;

  const FftAttention& a;  // Base's, with all that it has

  AttentionStrip(const FftAttention& a, int64_t i) : Base(a, i), a(a) {}

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
    return 2 * n * W + 2 * n * floats_of(a);
  }
  void forward(float* scratch) const {
    const float *weight = scratch, *bias = weight + blocks * W;
    float *mixed = scratch + 2 * blocks * W, *v = mixed + blocks * block_floats;
    this->template convolve<false>(v, mixed, nullptr, nullptr);
    if (a.v.c != 1) gather_all(a.v, v);
    with_type(a.type, [&](auto t) {
      Normalised<W, decltype(t)>{a, *this}.forward(weight, bias, mixed, v);
    });
    if (a.out.c != 1) scatter_all(mixed, a.out);
  }

  // scratch: weight, bias | sums of dweight, dbias | mixed, then dq | q's copy, then v, then dv |
  //          grad, then dk | spectra of q and k
  static int64_t backward_scratch(const FftAttention& a) {
    const int64_t n = blocks_of(a);
    return 4 * n * W + 5 * n * floats_of(a);
  }
  void backward(float* scratch) const {
    const int64_t tensor = blocks * block_floats;
    const bool in_place = a.v.c == 1 && a.grad.c == 1 && a.dv.c == 1;
    const float *weight = scratch, *bias = weight + blocks * W;
    float *dweight = scratch + 2 * blocks * W, *dbias = dweight + blocks * W;
    float *mixed = dbias + blocks * W, *v = mixed + tensor, *grad = v + tensor;
    float* spectra = grad + tensor;
    this->template convolve<true>(v, mixed, spectra, nullptr);
    if (!in_place) {
      gather_all(a.v, v);
      gather_all(a.grad, grad);
    }
    if (h < P || w < kColumns)  // beyond the tensor dm is zero
      for (int r = 0; r < P; r++)
        for (int c = r < h ? w : 0; c < kColumns; c++)
          for (int i = 0; i < blocks; i++)
            store<W>(mixed + i * block_floats + r * kRow + c * W, V{});
    with_type(a.type, [&](auto t) {
      Normalised<W, decltype(t)>{a, *this}.backward(in_place, weight, bias, dweight, dbias, mixed,
                                                    v, grad);
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

template <int P, int W>
struct Attention {
  using Part = AttentionStrip<P, W>;

  static int64_t scratch(const FftAttention& a, bool backward) {
    return backward ? Part::backward_scratch(a) : Part::forward_scratch(a);
  }
  static void forward(const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
    Part::pad_norm(a, scratch);
    for (int64_t i = begin; i < end; i++) Part(a, i).forward(scratch);
  }
  static void backward(const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
    Part::pad_norm(a, scratch);
    const int64_t n = int64_t{Part::blocks_of(a)} * W, strips = a.strips();
    float* sums = scratch + 2 * n;
    for (int64_t g = begin; g < end; g++) {
      float* total = a.dnorm + g * 2 * a.C;
      for (int64_t j = 0; j < 2 * a.C; j++) total[j] = 0.f;
      for (int64_t i = strips * g / a.groups; i < strips * (g + 1) / a.groups; i++) {
        // A sum for each strip and then over strips loses less than one long sum.
        for (int64_t j = 0; j < 2 * n; j++) sums[j] = 0.f;
        Part(a, i).backward(scratch);
        for (int64_t j = 0; j < a.C; j++) {
          total[j] += sums[j];
          total[a.C + j] += sums[n + j];
        }
      }
    }
  }
};

extern const FftAttentionKernel fft_attention_kernel = {
    [](const FftAttention& a, bool backward) {
      return dispatch<Attention>(a, [&](auto k) { return decltype(k)::scratch(a, backward); });
    },
    [](const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Attention>(a, [&](auto k) { decltype(k)::forward(a, begin, end, scratch); });
    },
    [](const FftAttention& a, int64_t begin, int64_t end, float* scratch) {
      dispatch<Attention>(a, [&](auto k) { decltype(k)::backward(a, begin, end, scratch); });
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
