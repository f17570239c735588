// The first pass of MDTA for CPUs: q, k, v = DW3x3(W n(x) + b); the sums q k^T of each head and the
// squares of q and k over all pixels, and v. Row by row of a strip of columns, which stays in a
// second-level cache (see projected_rows.h): x is read and v is written once, q and k are never in
// memory. 6 inner C + 54 C + 2 C c float operations a pixel, c = C / heads.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "transposed_attention_kernel.h"

#include "channel_matrices.h"
#include "projected_gradient.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int64_t kInFloat = 64;  // pixels that are summed up in float32, or a row of more

template <int W, class T>
struct Transposed {
  using V = Vec<W>;
  using Rows = ProjectedRows<W, T, 3>;
  static constexpr int kTaps = Depthwise<3, W>::kPacked;
  const TransposedAttention& a;
  const int64_t c, cp, hp;  // channels of a head; up to whole vectors; of all heads so
  const Projection in;

  explicit Transposed(const TransposedAttention& a)
      : a(a),
        c(a.C / a.heads),
        cp(whole<W>(c)),
        hp(a.heads * cp),
        in{a.B, a.H, a.W, a.inner, int(3 * a.heads), c, a.norm, a.eps, a.x, a.weight, a.bias} {}

  int64_t rows() const { return a.H * strips<W, 3>(in).count; }
  int64_t packed_size() const { return packed_projection_size<W>(in) + 3 * hp / W * kTaps; }
  int64_t gram_size() const { return a.heads * c * cp; }
  int64_t part_size() const { return gram_size() + 2 * hp; }
  int64_t scratch() const {
    return Rows::scratch(in) + Rows::row_pixels(in) * 3 * hp + 3 * part_size() + 64;
  }

  int64_t vectors() const { return 3 * hp / W; }
  void pack(int64_t begin, int64_t end) const {
    pack_projection<W, T>(in, a.packed, begin, end);
    pack_depthwise<W, 3>(in, a.depthwise, a.depthwise_bias,
                         a.packed + packed_projection_size<W>(in), begin, end);
  }

  void collect(int64_t begin, int64_t end, float* scratch) const {
    Rows qkv(in, a.packed, scratch);
    float* line = scratch + Rows::scratch(in);
    sum_parts(qkv, begin, end, part_size(), line + Rows::row_pixels(in) * 2 * hp,
              [&](int64_t y, float* sum) MOCE_INLINE_LAMBDA { add_row(qkv, y, line, sum); });
  }

  // The parts' sums of what add(y, sum) adds for each row, in float32 over a few pixels and in float64
  // beyond; scratch: 3 * size floats, 64-byte aligned.
  template <class Filled, class Add>
  MOCE_INLINE void sum_parts(Filled& filled, int64_t begin, int64_t end, int64_t size,
                             float* scratch, Add&& add) const {
    double* total = reinterpret_cast<double*>(scratch);
    float* sum = scratch + 2 * size;
    const int64_t rows = a.H * strips<W, 3>(filled.p).count;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / a.num_parts, part = i % a.num_parts;
      const int64_t first = rows * part / a.num_parts;
      const int64_t last = rows * (part + 1) / a.num_parts;
      int64_t pixels = 0;  // that are in sum
      for (int64_t j = 0; j < size; j++) total[j] = sum[j] = 0.f;
      for (int64_t r = first; r < last; r++) {
        const int64_t y = r % a.H;
        if (y == 0 || (i == begin && r == first)) {
          filled.enter_strip(b, r / a.H);
          filled.fill(y - 1);
          filled.fill(y);
        }
        filled.fill(y + 1);
        add(y, sum);
        pixels += filled.x1 - filled.x0;
        if (pixels < kInFloat && r + 1 < last) continue;
        for (int64_t j = 0; j < size; j++) {
          total[j] += sum[j];
          sum[j] = 0.f;
        }
        pixels = 0;
      }
      float* to = a.parts + i * size;
      for (int64_t j = 0; j < size; j++) to[j] = static_cast<float>(total[j]);
    }
  }

  // q, then k of row y (2 hp): of all pixels that `filled` has.
  template <class Filled>
  MOCE_NOINLINE void convolve_qk(const Filled& filled, int64_t y, float* line) const {
    const float* weight = a.packed + packed_projection_size<W>(in);
    for (int64_t i = 0; i < 2 * hp / W; i++)
      filled.convolve(y, i, weight + i * kTaps, [&](int64_t at, V value) MOCE_INLINE_LAMBDA {
        store<W>(line + at * 2 * hp + i * W, value);
      });
  }

  void add_row(const Rows& qkv, int64_t y, float* line, float* sum) const {
    const int64_t pixel = 2 * hp;
    const int n = int(qkv.x1 - qkv.x0);
    convolve_qk(qkv, y, line);
    const float *q = line, *k = line + hp;
    for (int64_t h = 0; h < a.heads; h++)
      add_outer<W, T>(q + h * cp, pixel, c, k + h * cp, pixel, cp, n, sum + h * c * cp);
    for (int64_t i = 0; i < 2 * hp; i += W) {  // of q, then of k
      float* to = sum + gram_size() + i;
      V squares = load<W>(to);
      for (int p = 0; p < n; p++) {
        const V value = load<W>(line + p * pixel + i);
        squares += value * value;
      }
      store<W>(to, squares);
    }
    write_v(qkv, y, n, a.packed + packed_projection_size<W>(in) + 2 * hp / W * kTaps, line);
  }

  void write_v(const Rows& qkv, int64_t y, int n, const float* weight, float* line) const {
    const bool direct = c % W == 0 && serves<W, T>(a.v, a.C);
    T* to = pixel_at<T>(a.v, qkv.b, y, qkv.x0);
    float* out = direct ? reinterpret_cast<float*>(to) : line;
    const int64_t pixel = direct ? a.v.w : hp;
    for (int64_t i = 0; i < hp / W; i++, out += W)
      qkv.convolve(y, 2 * hp / W + i, weight + i * kTaps,
                   [&](int64_t at, V value) MOCE_INLINE_LAMBDA {
                     if (at < n) store<W>(out + at * pixel, value);
                   });
    if (direct) return;
    for (int64_t h = 0; h < a.heads; h++)
      for (int64_t i = 0; i < c; i += W)
        scatter_pixels<W>(line + h * cp + i, hp, to + (h * c + i) * a.v.c, a.v,
                          c - i < W ? int(c - i) : W, n);
  }
};

// Backward, two passes more: one for v grad^T, of which the matrices' gradients are made
// (channel_matrices.h), one for the gradients of q, k and v and from there to x.
template <int W, class T>
struct TransposedGradient : Transposed<W, T> {
  using Base = Transposed<W, T>;
  using Base::a, Base::c, Base::cp, Base::hp, Base::in, Base::kTaps;
  using typename Base::V, typename Base::Rows;
  using Gradient = ProjectedGradient<W, T, 3>;
  using WideRows = typename Gradient::Rows;
  const Projection values;  // v alone
  const int64_t outer, Np;

  explicit TransposedGradient(const TransposedAttention& a)
      : Base(a),
        values{a.B, a.H, a.W, a.inner, int(a.heads), c, a.norm, a.eps, a.x,
               a.weight + 2 * a.C * a.inner, a.bias ? a.bias + 2 * a.C : nullptr},
        outer(a.attention ? a.attention->outer : 0),
        Np(whole<W>(outer)) {}

  int64_t values_size() const { return packed_projection_size<W>(values); }
  void pack_values() const { pack_projection<W, T>(values, a.packed_values, 0, hp / W); }

  int64_t scratch() const {
    if (!a.attention) return Base::scratch();
    return Rows::scratch(values) + Rows::row_pixels(values) * (hp + Np) +
           3 * (a.C * Np + Np) + 64;
  }

  // A row's sums of v grad^T (C, Np), and of grad (Np).
  void collect_values(int64_t begin, int64_t end, float* scratch) const {
    Rows v(values, a.packed_values, scratch);
    const float* weight = a.packed + packed_projection_size<W>(in) + 2 * hp / W * kTaps;
    float *line = scratch + Rows::scratch(values), *of_grad = line + Rows::row_pixels(values) * hp;
    auto* g_copy = reinterpret_cast<Operand<T>*>(of_grad);
    const auto add = [&](int64_t y, float* sum) MOCE_INLINE_LAMBDA {
      const int n = int(v.x1 - v.x0);
      const auto g = read_operands<W, T>(a.grad, outer, v.b, y, v.x0, n, g_copy);
      for (int64_t i = 0; i < hp / W; i++)
        v.convolve(y, i, weight + i * kTaps, [&](int64_t at, V value) MOCE_INLINE_LAMBDA {
          store<W>(line + at * hp + i * W, value);
        });
      for (int64_t h = 0; h < a.heads; h++)
        add_outer<W, T>(line + h * cp, hp, c, g.data, g.pixel, Np, n, sum + h * c * Np);
      add_pixels<W>(g.data, g.pixel, Np, n, sum + a.C * Np);
    };
    this->sum_parts(v, begin, end, a.C * Np + Np, of_grad + Rows::row_pixels(values) * Np, add);
  }

  GradientSizes sizes() const {
    return {Gradient::rows(in), 3 * hp / W, Gradient::packed_size(in), Gradient::sums_size(in),
            Gradient::scratch(in) + WideRows::row_pixels(in) * (2 * hp + Np) + 64};
  }
  void pack_gradient(int64_t begin, int64_t end) const {
    Gradient::pack(in, a.depthwise, a.gradient.packed, begin, end);
  }
  void reduce(int64_t begin, int64_t end) const {
    reduce_projection<W, 3>(in, a.gradient, begin, end);
  }

  void backward(int64_t begin, int64_t end, float* scratch) const {
    Gradient qkv(in, a.gradient, a.packed, scratch);
    float* line = scratch + Gradient::scratch(in);
    auto* g_copy = reinterpret_cast<Operand<T>*>(line + WideRows::row_pixels(in) * 2 * hp);
    qkv.run(begin, end, a.add_grad ? &a.grad : nullptr,
            [&](int64_t y, float*) MOCE_INLINE_LAMBDA { gradient_row(qkv, y, line, g_copy); });
  }

  // dq = dG k + e q, dk = dG^T q + f k, dv = M^T grad of row y.
  MOCE_NOINLINE void gradient_row(const Gradient& qkv, int64_t y, float* line,
                                  Operand<T>* g_copy) const {
    const WideRows& rows = qkv.made;
    const int n = int(rows.right() - rows.left());
    const auto m = ChannelMatrices<W, T>(*a.attention).gradient_matrices(rows.b);
    const auto g = read_operands<W, T>(a.grad, outer, rows.b, y, rows.left(), n, g_copy);
    this->convolve_qk(rows, y, line);
    const float *q = line + rows.offset() * 2 * hp, *k = q + hp;
    float* d = qkv.gradient_at(y) + rows.offset() * W;
    const int64_t part = hp / W * rows.vector;  // from the gradient of q to those of k and of v
    for (int64_t h = 0; h < a.heads; h++) {
      float* to = d + h * cp / W * rows.vector;
      const int64_t square = h * c * cp;
      multiply_panels<W, T>(k + h * cp, 2 * hp, c, m.by_k + square, c, nullptr, nullptr, 0, to, W,
                            n, rows.vector);
      multiply_panels<W, T>(q + h * cp, 2 * hp, c, m.by_q + square, c, nullptr, nullptr, 0,
                            to + part, W, n, rows.vector);
      multiply_panels<W, T>(g.data, g.pixel, outer, m.by_grad + h * outer * cp, c, nullptr, nullptr,
                            0, to + 2 * part, W, n, rows.vector);
    }
    for (int64_t i = 0; i < 2 * hp; i += W) {  // of q, then of k; so are the factors
      const V factor = load<W>(m.q_factor + i);
      float* to = d + i / W * rows.vector;
      for (int p = 0; p < n; p++)
        store<W>(to + p * W, load<W>(to + p * W) + factor * load<W>(q + p * 2 * hp + i));
    }
  }
};

template <class F>
auto dispatch(const TransposedAttention& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(TransposedGradient<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(TransposedGradient<MOCE_LANES, Half>(a));
    default: return f(TransposedGradient<MOCE_LANES, float>(a));
  }
}

using A = TransposedAttention;
extern const TransposedAttentionKernel transposed_attention_kernel = {
    [](const A& a) { return dispatch(a, [](auto k) { return k.packed_size(); }); },
    [](const A& a) { return dispatch(a, [](auto k) { return k.rows(); }); },
    [](const A& a) { return dispatch(a, [](auto k) { return k.scratch(); }); },
    [](const A& a) { return dispatch(a, [](auto k) { return k.vectors(); }); },
    [](const A& a, int64_t begin, int64_t end) {
      dispatch(a, [=](auto k) { k.pack(begin, end); });
    },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.collect(begin, end, scratch); });
    },
    [](const A& a) { return dispatch(a, [](auto k) { return k.values_size(); }); },
    [](const A& a) { dispatch(a, [](auto k) { k.pack_values(); }); },
    [](const A& a, int64_t begin, int64_t end, float* scratch) {
      dispatch(a, [=](auto k) { k.collect_values(begin, end, scratch); });
    },
    {
        [](const A& a) { return dispatch(a, [](auto k) { return k.sizes(); }); },
        [](const A& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.pack_gradient(begin, end); });
        },
        [](const A& a, int64_t begin, int64_t end, float* scratch) {
          dispatch(a, [=](auto k) { k.backward(begin, end, scratch); });
        },
        [](const A& a, int64_t begin, int64_t end) {
          dispatch(a, [=](auto k) { k.reduce(begin, end); });
        },
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
