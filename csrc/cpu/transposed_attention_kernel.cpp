// The first pass of MDTA for CPUs: q, k, v = DW3x3(W n(x) + b); the sums q k^T of each head and the
// squares of q and k over all pixels, and v. Row by row of a strip of columns, which stays in a
// second-level cache (see projected_rows.h): x is read and v is written once, q and k are never in
// memory. 6 inner C + 54 C + 2 C c float operations a pixel, c = C / heads.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "transposed_attention_kernel.h"

#include "projected_rows.h"

namespace moce {
inline namespace MOCE_ISA {

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
    pack_projection<W>(in, a.packed, begin, end);
    pack_depthwise<W, 3>(in, a.depthwise, a.depthwise_bias,
                         a.packed + packed_projection_size<W>(in), begin, end);
  }

  void collect(int64_t begin, int64_t end, float* scratch) const {
    Rows qkv(in, a.packed, scratch);
    // Sums of a row in float32, of a part in float64.
    double* total = reinterpret_cast<double*>(scratch + Rows::scratch(in));
    float *sum = reinterpret_cast<float*>(total + part_size()), *line = sum + part_size();
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / a.num_parts, part = i % a.num_parts;
      for (int64_t j = 0; j < part_size(); j++) total[j] = 0;
      for (int64_t r = rows() * part / a.num_parts; r < rows() * (part + 1) / a.num_parts; r++) {
        const int64_t y = r % a.H;
        if (y == 0 || (i == begin && r == rows() * part / a.num_parts)) {
          qkv.enter_strip(b, r / a.H);
          qkv.fill(y - 1);
          qkv.fill(y);
        }
        qkv.fill(y + 1);
        add_row(qkv, y, line, sum);
        for (int64_t j = 0; j < part_size(); j++) total[j] += sum[j];
      }
      float* to = a.parts + i * part_size();
      for (int64_t j = 0; j < part_size(); j++) to[j] = static_cast<float>(total[j]);
    }
  }

  void add_row(const Rows& qkv, int64_t y, float* line, float* sum) const {
    const int64_t pixel = 2 * hp, vectors = hp / W;
    const float* weight = a.packed + packed_projection_size<W>(in);
    const int n = int(qkv.x1 - qkv.x0);
    for (int64_t i = 0; i < 2 * vectors; i++)
      qkv.convolve(y, i, weight + i * kTaps, [&](int64_t at, V value) MOCE_INLINE_LAMBDA {
        store<W>(line + at * pixel + i * W, value);
      });
    const float *q = line, *k = line + hp;
    for (int64_t j = 0; j < part_size(); j++) sum[j] = 0.f;
    for (int64_t h = 0; h < a.heads; h++)
      add_outer<W>(q + h * cp, pixel, c, k + h * cp, pixel, cp, n, sum + h * c * cp);
    for (int64_t i = 0; i < 2 * hp; i += W) {  // of q, then of k
      V squares = {};
      for (int p = 0; p < n; p++) {
        const V value = load<W>(line + p * pixel + i);
        squares += value * value;
      }
      store<W>(sum + gram_size() + i, squares);
    }
    write_v(qkv, y, n, weight + 2 * vectors * kTaps, line);
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

template <class F>
auto dispatch(const TransposedAttention& a, F&& f) {
  switch (a.type) {
    case Type::kBFloat16: return f(Transposed<MOCE_LANES, BFloat16>(a));
    case Type::kHalf: return f(Transposed<MOCE_LANES, Half>(a));
    default: return f(Transposed<MOCE_LANES, float>(a));
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
};

}  // namespace MOCE_ISA
}  // namespace moce
