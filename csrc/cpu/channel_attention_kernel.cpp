// Attention over channels for CPUs: for each head A = softmax(t q^ k^T), q^ and k^ the channels'
// rows over all pixels at unit length; out = Wo A v + b + residual.
//
// Two passes over the pixels. The first gathers q k^T and the squared lengths; A, folded into the
// output projection, is a matrix M = Wo A for each image, with which the second multiplies v. So q,
// k, v and residual are read once, out is written once: 2 C (c + outer) float operations for each
// pixel, c = C / heads. Backward: one pass for dM = grad v^T, one for dv = M^T grad, dq = dG k + e q
// and dk = dG^T q + f k with e and f from the lengths.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "channel_attention_kernel.h"

#include "channel_matrices.h"
#include "matmul.h"
#include "pixels.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kBlock = 48;  // pixels
constexpr int kInFloat = 2;  // blocks that are summed up in float32; these sums in float64

template <int W, class T>
struct Attention : ChannelMatrices<W, T> {
  using V = Vec<W>;
  using Base = ChannelMatrices<W, T>;
  using Base::a, Base::C, Base::c, Base::cp, Base::hp, Base::Cp, Base::Np;
  using Base::gram_size, Base::matrices_size, Base::part_size;
  const int64_t per_row, per_image;  // blocks

  explicit Attention(const ChannelAttention& a)
      : Base(a), per_row((a.W + kBlock - 1) / kBlock), per_image(a.H * per_row) {}

  int64_t blocks() const { return a.B * per_image; }
  int64_t scratch() const {
    const int64_t pixels = kBlock * (4 * hp + 2 * Cp + 2 * Np);
    const int64_t images = 2 * C * (Np + 1) + 2 * c + 7 * a.heads * c * c + 2 * gram_size() + part_size(true);
    const int64_t sums = 3 * (part_size(true) > part_size(false) ? part_size(true)
                                                                 : part_size(false));
    return pixels + (images > sums ? images : sums) + 64;
  }

  struct Place {
    int64_t b, y, x;
    int count;
  };
  Place place(int64_t i) const {
    const int64_t x = i % per_row * kBlock, row = i / per_row;
    return {row / a.H, row % a.H, x, a.W - x < kBlock ? int(a.W - x) : kBlock};
  }

  // Head h of a pixel's channels begins at h * cp: the tensor's own memory where it serves.
  Pixels read_heads(const Strided& s, const Place& t, float* buffer) const {
    if (serves<W, T>(s, c)) return read_pixels<W, T>(s, C, t.b, t.y, t.x, t.count, buffer);
    const T* from = pixel_at<T>(s, t.b, t.y, t.x);
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t i = 0; i < c; i += W)
        gather_pixels<W>(from + (h * c + i) * s.c, s, c - i < W ? int(c - i) : W, t.count,
                         buffer + h * cp + i, hp);
    return {buffer, hp};
  }
  void write_heads(const float* from, const Strided& s, const Place& t) const {
    if (serves<W, T>(s, c)) return;
    T* to = pixel_at<T>(s, t.b, t.y, t.x);
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t i = 0; i < c; i += W)
        scatter_pixels<W>(from + h * cp + i, hp, to + (h * c + i) * s.c, s,
                          c - i < W ? int(c - i) : W, t.count);
  }

  // --- forward ---------------------------------------------------------------------------------

  // Runs add(place, sum) over the blocks of part i and leaves their sum in `parts`.
  template <class F>
  MOCE_INLINE void sum_part(int64_t i, int64_t size, float* scratch, F&& add) const {
    const int64_t first = i / a.num_parts * per_image, part = i % a.num_parts;
    const int64_t begin = per_image * part / a.num_parts;
    const int64_t end = per_image * (part + 1) / a.num_parts;
    double* total = reinterpret_cast<double*>(scratch);
    float *sum = scratch + 2 * size, *to = a.parts + i * size;
    for (int64_t j = 0; j < size; j++) total[j] = sum[j] = 0.f;
    for (int64_t j = begin; j < end; j++) {
      add(place(first + j), sum);
      if ((j - begin) % kInFloat != kInFloat - 1 && j + 1 < end) continue;
      for (int64_t n = 0; n < size; n++) {
        total[n] += sum[n];
        sum[n] = 0.f;
      }
    }
    for (int64_t j = 0; j < size; j++) to[j] = static_cast<float>(total[j]);
  }

  // Part i: q k^T of each head (c, cp), squares of q and of k (hp).
  void collect(int64_t begin, int64_t end, float* scratch) const {
    const int64_t size = part_size(false);
    float *q_copy = scratch + 3 * size, *k_copy = q_copy + kBlock * hp;
    for (int64_t i = begin; i < end; i++)
      sum_part(i, size, scratch, [&](const Place& t, float* sum) MOCE_INLINE_LAMBDA {
        const Pixels q = read_heads(a.q, t, q_copy), k = read_heads(a.k, t, k_copy);
        for (int64_t h = 0; h < a.heads; h++)
          add_outer<W, T>(q.data + h * cp, q.pixel, c, k.data + h * cp, k.pixel, cp, t.count,
                          sum + h * c * cp);
        add_squares(q, t.count, sum + gram_size());
        add_squares(k, t.count, sum + gram_size() + hp);
      });
  }
  void add_squares(const Pixels& x, int count, float* sum) const {
    for (int64_t i = 0; i < hp; i += W) {
      V total = load<W>(sum + i);
      for (int p = 0; p < count; p++) {
        const V v = load<W>(x.data + p * x.pixel + i);
        total += v * v;
      }
      store<W>(sum + i, total);
    }
  }

  void apply(int64_t begin, int64_t end, float* scratch) const {
    auto* v_copy = reinterpret_cast<Operand<T>*>(scratch);
    float *start = scratch + kBlock * Cp, *buffer = start + kBlock * Np;
    for (int64_t i = begin; i < end; i++) {
      const Place t = place(i);
      auto v = read_operands<W, T>(a.v, C, t.b, t.y, t.x, t.count, v_copy);
      if (a.out.data == a.v.data && serves<W, T>(a.v, C)) {  // out takes the place of v
        for (int p = 0; p < t.count; p++)
          for (int64_t c = 0; c < C; c += W)
            store<W>(v_copy + p * Cp + c, load<W>(v.data + p * v.pixel + c));
        v = {v_copy, Cp};
      }
      Pixels from{nullptr, 0};
      if (a.residual.data)
        from = read_pixels<W, T>(a.residual, a.outer, t.b, t.y, t.x, t.count, start);
      const float* matrix = a.matrices + t.b * matrices_size(false);
      int64_t pixel;
      float* to = place_for_pixels<W, T>(a.out, a.outer, t.b, t.y, t.x, buffer, pixel);
      multiply_panels<W, T>(v.data, v.pixel, C, matrix, a.outer, a.bias ? matrix + C * Np : nullptr,
                            from.data, from.pixel, to, pixel, t.count);
      write_pixels<W, T>(to, a.out, a.outer, t.b, t.y, t.x, t.count);
    }
  }

  // --- backward --------------------------------------------------------------------------------

  // Part i: the sum of v grad^T (C, Np), and of grad (Np).
  void backward_collect(int64_t begin, int64_t end, float* scratch) const {
    const int64_t size = part_size(true);
    auto* v_copy = reinterpret_cast<Operand<T>*>(scratch + 3 * size);
    auto* g_copy = reinterpret_cast<Operand<T>*>(scratch + 3 * size + kBlock * Cp);
    for (int64_t i = begin; i < end; i++)
      sum_part(i, size, scratch, [&](const Place& t, float* sum) MOCE_INLINE_LAMBDA {
        const auto v = read_operands<W, T>(a.v, C, t.b, t.y, t.x, t.count, v_copy);
        const auto g = read_operands<W, T>(a.grad, a.outer, t.b, t.y, t.x, t.count, g_copy);
        add_outer<W, T>(v.data, v.pixel, C, g.data, g.pixel, Np, t.count, sum);
        add_pixels<W>(g.data, g.pixel, Np, t.count, sum + C * Np);
      });
  }

  void backward_apply(int64_t begin, int64_t end, float* scratch) const {
    float *q_copy = scratch, *k_copy = q_copy + kBlock * hp, *of_grad = k_copy + kBlock * hp;
    auto* g_copy = reinterpret_cast<Operand<T>*>(of_grad);
    float* buffer = of_grad + kBlock * Np;
    for (int64_t i = begin; i < end; i++) {
      const Place t = place(i);
      const Pixels q = read_heads(a.q, t, q_copy), k = read_heads(a.k, t, k_copy);
      const auto g = read_operands<W, T>(a.grad, a.outer, t.b, t.y, t.x, t.count, g_copy);
      const auto m = this->gradient_matrices(t.b);
      const bool direct = serves<W, T>(a.dv, c);
      float* to = direct ? reinterpret_cast<float*>(pixel_at<T>(a.dv, t.b, t.y, t.x)) : buffer;
      for (int64_t h = 0; h < a.heads; h++)
        multiply_panels<W, T>(g.data, g.pixel, a.outer, m.by_grad + h * a.outer * cp, c, nullptr,
                              nullptr, 0, to + h * cp, direct ? a.dv.w : hp, t.count);
      write_heads(to, a.dv, t);
      gradient(q, k, m.q_factor, m.by_k, a.dq, t, buffer);
      gradient(k, q, m.k_factor, m.by_q, a.dk, t, buffer);
    }
  }
  // d own = factor own + panels other
  void gradient(const Pixels& own, const Pixels& other, const float* factor, const float* panels,
                const Strided& d, const Place& t, float* buffer) const {
    const bool direct = serves<W, T>(d, c);
    float* to = direct ? reinterpret_cast<float*>(pixel_at<T>(d, t.b, t.y, t.x)) : buffer;
    const int64_t pixel = direct ? d.w : hp;
    for (int p = 0; p < t.count; p++)
      for (int64_t i = 0; i < hp; i += W)
        store<W>(to + p * pixel + i, load<W>(own.data + p * own.pixel + i) * load<W>(factor + i));
    for (int64_t h = 0; h < a.heads; h++)
      multiply_panels<W, T>(other.data + h * cp, other.pixel, c, panels + h * c * cp, c, nullptr,
                            to + h * cp, pixel, to + h * cp, pixel, t.count);
    write_heads(to, d, t);
  }
};

template <class F>
auto dispatch(const ChannelAttention& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(Attention<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(Attention<MOCE_LANES, Half>(a));
    default: return f(Attention<MOCE_LANES, float>(a));
  }
}

using A = ChannelAttention;
extern const ChannelAttentionKernel channel_attention_kernel = {
    [](const A& a) { return dispatch(a, [](auto k) { return k.blocks(); }); },
    [](const A& a) { return dispatch(a, [](auto k) { return k.weight_size(); }); },
    [](const A& a, bool backward) {
      return dispatch(a, [=](auto k) { return k.part_size(backward); });
    },
    [](const A& a, bool backward) {
      return dispatch(a, [=](auto k) { return k.matrices_size(backward); });
    },
    [](const A& a) { return dispatch(a, [](auto k) { return k.scratch(); }); },
    [](const A& a) { dispatch(a, [](auto k) { k.transpose_weight(); }); },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.collect(begin, end, scratch); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.mix(begin, end, scratch); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.apply(begin, end, scratch); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.backward_collect(begin, end, scratch); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.backward_mix(begin, end, scratch); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.backward_apply(begin, end, scratch); });
    },
    [](const A& a) { dispatch(a, [](auto k) { k.reduce(); }); },
};

}  // namespace MOCE_ISA
}  // namespace moce
