// Depthwise 3x3 convolution with a GELU gate for CPUs: a, b = x * weight + bias, halves of the
// channels; out = GELU(a) b. Backward computes a and b again, then their gradients, and from these
// dx and the weights' gradients, all of a few rows at a time: nothing but x is read and nothing but
// out, or dx, is written. About 110 float operations for each element of out, 280 backward.
//
// Tiles of 32 x 32 pixels, blocks of as many channels of a and of b as a vector has lanes; rings of
// three rows of x, and of the gradients of a and b, stay in a first-level cache (see depthwise.h).
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "gated_depthwise_conv_kernel.h"

#include "depthwise.h"
#include "gelu.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kLanes = MOCE_LANES;

struct Gated {
  static constexpr int W = kLanes, K = 3;
  using V = Vec<W>;
  using D = Depthwise<K, W>;
  using Ring = D::Ring;
  const GatedDepthwiseConv& a;

  int64_t blocks() const { return (a.C + W - 1) / W; }
  // Of each block the weights of a and of b, then for dx the same flipped, without biases.
  static constexpr int64_t kBlock = 4 * D::kPacked;
  int64_t packed_size() const { return blocks() * kBlock; }
  // Rings of x for a and b, of their gradients, and three lines.
  static int64_t row() { return D::row_floats(GatedDepthwiseConv::kColumns + 2); }
  static int64_t scratch() { return (4 * K + 3) * row(); }

  int lanes(int64_t block) const { return a.C - block * W < W ? int(a.C - block * W) : W; }

  void pack() const {
    for (int64_t block = 0; block < blocks(); block++)
      for (int half = 0; half < 2; half++) {
        float* to = a.packed + block * kBlock + half * D::kPacked;
        float* flipped = to + 2 * D::kPacked;
        for (int k = 0; k <= K * K; k++)
          for (int i = 0; i < W; i++) {
            const bool exists = i < lanes(block);
            const int64_t c = half * a.C + block * W + i;
            const float bias = exists && a.bias ? a.bias[c] : 0.f;
            to[k * W + i] = k == K * K ? bias : exists ? a.weight[c * K * K + k] : 0.f;
            flipped[k * W + i] =
                k < K * K && exists ? a.weight[c * K * K + K * K - 1 - k] : 0.f;
          }
      }
  }

  struct Tile {
    int64_t b;
    Rectangle r;
  };
  Tile tile(int64_t i) const {
    const int64_t rows = a.tile_rows(), columns = a.tile_columns();
    const int64_t x = i % columns, y = i / columns % rows;
    return {i / columns / rows,
            {a.H * y / rows, a.H * (y + 1) / rows, a.W * x / columns, a.W * (x + 1) / columns}};
  }
  // A block's channels of one half of s.
  Image image(const Strided& s, int64_t b, int64_t block, int half) const {
    const int64_t size = a.type == Type::kFloat ? 4 : 2;
    return {a.type, static_cast<char*>(s.data) + (b * s.b + (half * a.C + block * W) * s.c) * size,
            s.c, s.h, s.w, lanes(block), a.H, a.W};
  }

  // A row's outputs, whole groups of kTail.
  static MOCE_INLINE void convolve(const float* const (&rows)[K], int first, int last,
                                   int64_t columns, const float* weight, float* to) {
    D::strips(rows, first, last, 0, columns, weight, to, W);
  }

  void forward(int64_t begin, int64_t end, float* scratch) const {
    for (int64_t i = begin; i < end; i++) {
      const int64_t block = i % blocks();
      const auto [b, r] = tile(i / blocks());
      const float* weight = a.packed + block * kBlock;
      const Image xa = image(a.x, b, block, 0), xb = image(a.x, b, block, 1);
      const Image out = image(a.out, b, block, 0);
      Ring of_a(xa, r, scratch), of_b(xb, r, scratch + K * row());
      float *line_a = scratch + 2 * K * row(), *line_b = line_a + row();
      const int64_t columns = r.x1 - r.x0;
      for (int64_t y = r.y0; y < r.y1; y++) {
        const float* rows[K];
        int first, last;
        of_a.window(y, rows, first, last);
        convolve(rows, first, last, columns, weight, line_a);
        of_b.window(y, rows, first, last);
        convolve(rows, first, last, columns, weight + D::kPacked, line_b);
        for (int64_t j = 0; j < columns * W; j += W)
          store<W>(line_a + j, gelu<W>(load<W>(line_a + j)) * load<W>(line_b + j));
        Rows<W>::write(line_a, out, y, r.x0, r.x1);
      }
    }
  }

  void backward(int64_t begin, int64_t end, float* scratch) const {
    const int64_t tiles = a.tiles();
    for (int64_t group = begin; group < end; group++)
      for (int64_t i = tiles * group / a.groups; i < tiles * (group + 1) / a.groups; i++)
        for (int64_t block = 0; block < blocks(); block++)
          backward(tile(i), block, a.sums + group * packed_size() + block * kBlock, scratch);
  }

  // The gradients of a and b of rows y0 - 1 ... y1 and columns x0 - 1 ... x1, where they exist;
  // from three rows of them one of dx.
  void backward(const Tile& t, int64_t block, float* sums, float* scratch) const {
    const float* weight = a.packed + block * kBlock;
    const Rectangle& r = t.r;
    const Rectangle around{r.y0 > 0 ? r.y0 - 1 : 0, r.y1 < a.H ? r.y1 + 1 : a.H, r.x0 - 1,
                           r.x1 + 1};
    const int64_t columns = r.x1 - r.x0, wide = columns + 2;
    const Image xa = image(a.x, t.b, block, 0), xb = image(a.x, t.b, block, 1);
    const Image g = image(a.grad, t.b, block, 0);
    Ring of_a(xa, around, scratch), of_b(xb, around, scratch + K * row());
    float *grad_a = scratch + 2 * K * row(), *grad_b = grad_a + K * row();
    float *line_a = grad_b + K * row(), *line_b = line_a + row(), *line_g = line_b + row();
    const int64_t left = r.x0 > 0 ? 0 : 1, right = r.x1 < a.W ? wide : wide - 1;
    for (int64_t j = 0; j < wide * W; j += W) store<W>(line_g + j, V{});
    for (int64_t y = around.y0; y < around.y1; y++) {
      const float *rows_a[K], *rows_b[K];
      int first, last;
      of_a.window(y, rows_a, first, last);
      convolve(rows_a, first, last, wide, weight, line_a);
      of_b.window(y, rows_b, first, last);
      convolve(rows_b, first, last, wide, weight + D::kPacked, line_b);
      Rows<W>::read(g, y, r.x0 - 1 + left, r.x0 - 1 + right, line_g + left * W);
      float *da = grad_a + y % K * row(), *db = grad_b + y % K * row();
      for (int64_t j = 0; j < wide * W; j += W) {
        V slope;
        const V grad = load<W>(line_g + j), value = gelu<W>(load<W>(line_a + j), slope);
        store<W>(da + j, grad * load<W>(line_b + j) * slope);
        store<W>(db + j, grad * value);
      }
      if (y >= r.y0 && y < r.y1) {
        add_weight_gradient(rows_a, first, last, da + W, columns, sums);
        add_weight_gradient(rows_b, first, last, db + W, columns, sums + D::kPacked);
      }
      if (y > r.y0) write_row(t, block, y - 1, grad_a, grad_b, weight, line_a);
    }
    if (r.y1 == a.H) write_row(t, block, a.H - 1, grad_a, grad_b, weight, line_a);
  }

  // rows: of x, with two pixels more at the left than d, the gradient of the tile's own columns.
  static void add_weight_gradient(const float* const (&rows)[K], int first, int last,
                                  const float* d, int64_t columns, float* sums) {
    const float* inner[K];
    for (int i = first; i < last; i++) inner[i] = rows[i] + W;
    D::add_weight_gradient(inner, first, last, d, columns, sums);
  }

  void write_row(const Tile& t, int64_t block, int64_t y, const float* grad_a, const float* grad_b,
                 const float* weight, float* line) const {
    const int64_t columns = t.r.x1 - t.r.x0;
    const int first = y == 0 ? 1 : 0, last = y + 1 == a.H ? 2 : 3;
    for (int half = 0; half < 2; half++) {
      const float *grad = half == 0 ? grad_a : grad_b, *rows[K];
      for (int i = first; i < last; i++) rows[i] = grad + (y - 1 + i) % K * row();
      convolve(rows, first, last, columns, weight + (2 + half) * D::kPacked, line);
      Rows<W>::write(line, image(a.dx, t.b, block, half), y, t.r.x0, t.r.x1);
    }
  }

  void reduce() const {
    for (int64_t block = 0; block < blocks(); block++)
      for (int half = 0; half < 2; half++)
        for (int k = 0; k <= K * K; k++)
          for (int i = 0; i < lanes(block); i++) {
            double sum = 0;
            for (int64_t g = 0; g < a.groups; g++)
              sum += a.sums[g * packed_size() + block * kBlock + half * D::kPacked + k * W + i];
            const int64_t c = half * a.C + block * W + i;
            (k < K * K ? a.dweight[c * K * K + k] : a.dbias[c]) = static_cast<float>(sum);
          }
  }
};

using G = GatedDepthwiseConv;
extern const GatedDepthwiseConvKernel gated_depthwise_conv_kernel = {
    [](const G& a) { return Gated{a}.blocks(); },
    [](const G& a) { return Gated{a}.packed_size(); },
    [](const G&) { return Gated::scratch(); },
    [](const G& a) { Gated{a}.pack(); },
    [](const G& a, int64_t begin, int64_t end, float* scratch) {
      Gated{a}.forward(begin, end, scratch);
    },
    [](const G& a, int64_t begin, int64_t end, float* scratch) {
      Gated{a}.backward(begin, end, scratch);
    },
    [](const G& a) { Gated{a}.reduce(); },
};

}  // namespace MOCE_ISA
}  // namespace moce
