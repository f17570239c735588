// Depthwise convolution for CPUs, 3 x 3 and 7 x 7: out = x * weight + bias, and the gradients of
// weight and bias. The gradient of x is the convolution of out's gradient with flipped weights.
//
// An image is cut into tiles of 16 x 64 pixels and blocks of as many channels as a vector has lanes
// (see depthwise.h for one block of one tile). The blocks of a tile follow each other, so that
// cache lines which they share are fetched once. Each pass reads and writes every element of memory
// once but for the halo of the tiles; 2 K K float operations for each element.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "depthwise_conv_kernel.h"

#include "depthwise.h"
#include "depthwise_in_place.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kLanes = MOCE_LANES;

static int64_t blocks_of(const DepthwiseConv& a) { return (a.C + kLanes - 1) / kLanes; }
static int64_t taps(const DepthwiseConv& a) { return int64_t{a.kernel} * a.kernel + 1; }
static int64_t packed_size(const DepthwiseConv& a) { return blocks_of(a) * taps(a) * kLanes; }
static int channels(const DepthwiseConv& a, int64_t block) {
  const int64_t left = a.C - block * kLanes;
  return left < kLanes ? int(left) : kLanes;
}
// The narrowest vectors that hold so many channels.
static int width(int channels) {
  return kLanes > 4 && channels <= 4 ? 4 : kLanes > 8 && channels <= 8 ? 8 : kLanes;
}
template <class F>
void with_width(int channels, F&& f) {
  switch (width(channels)) {
    case 4: return f(Int<4>{});
#if MOCE_LANES >= 8
    case 8: return f(Int<8>{});
#endif
#if MOCE_LANES >= 16
    case 16: return f(Int<16>{});
#endif
  }
}

static Image image(const DepthwiseConv& a, const Strided& s, int64_t b, int64_t block) {
  const int64_t size = a.type == Type::kFloat ? 4 : 2;
  return {a.type, static_cast<char*>(s.data) + (b * s.b + block * kLanes * s.c) * size,
          s.c, s.h, s.w, channels(a, block), a.H, a.W};
}

struct Tile {
  int64_t b;
  Rectangle r;
};
static Tile tile_at(const DepthwiseConv& a, int64_t i) {
  const int64_t rows = a.tile_rows(), columns = a.tile_columns();
  const int64_t x = i % columns, y = i / columns % rows;
  return {i / columns / rows,
          {a.H * y / rows, a.H * (y + 1) / rows, a.W * x / columns, a.W * (x + 1) / columns}};
}

// packed (blocks, taps, lanes); a last block of fewer lanes is dense at its beginning.
static void pack(const DepthwiseConv& a, float* packed) {
  const int64_t area = int64_t{a.kernel} * a.kernel;
  for (int64_t block = 0; block < blocks_of(a); block++, packed += taps(a) * kLanes) {
    const int n = channels(a, block), w = width(n);
    for (int64_t k = 0; k <= area; k++)
      for (int i = 0; i < w; i++) {
        const int64_t c = block * kLanes + i;
        float& to = packed[k * w + i] = 0.f;
        if (i < n && k < area) to = a.weight[c * area + (a.flip ? area - 1 - k : k)];
        if (i < n && k == area && a.bias) to = a.bias[c];
      }
  }
}

// How a tile is cut into channels: `strips` parts of up to kTogether blocks in place, then parts of
// one block by way of scratch.
constexpr int64_t kTogether = 8;
// Where it was measured to be faster.
static constexpr bool takes_strips(int kernel) { return kernel == 3 && kLanes >= 16; }
struct Cut {
  int64_t in_place;  // blocks
  int64_t strips, parts;
};
static Cut cut(const DepthwiseConv& a, const Strided& other) {
  const bool adjacent = a.x.c == 1 && other.c == 1;
  const int64_t in_place = adjacent && takes_strips(a.kernel) ? a.C / kLanes : 0;
  const int64_t strips = (in_place + kTogether - 1) / kTogether;
  return {in_place, strips, strips + blocks_of(a) - in_place};
}

static int64_t scratch(const DepthwiseConv& a) {
  const int64_t columns = a.W < a.kColumns ? a.W : a.kColumns;
  const int64_t sums = kTogether * taps(a) * kLanes;
  const int64_t ring = a.kernel == 3 ? Depthwise<3, kLanes>::scratch(columns)
                                     : Depthwise<7, kLanes>::scratch(columns);
  return ring < sums ? sums : ring;
}

template <int K, class F>
MOCE_INLINE void with_strips(const DepthwiseConv& a, F&& f) {
  with_type(a.type, [&](auto t) { f(t, DepthwiseInPlace<K, kLanes, decltype(t)>{}); });
}

template <int K>
struct Kernel {
  static void forward(const DepthwiseConv& a, const Tile& t, const Cut& c, int64_t part,
                      float* scratch) {
    const int64_t packed = taps(a) * kLanes;
    if (part >= c.strips) {
      const int64_t block = c.in_place + part - c.strips;
      with_width(channels(a, block), [&](auto w) {
        Depthwise<K, decltype(w)::value>::forward(image(a, a.x, t.b, block),
                                                  image(a, a.out, t.b, block), t.r,
                                                  a.packed + block * packed, scratch);
      });
    } else if constexpr (takes_strips(K)) {
      const int64_t first = c.in_place * part / c.strips, last = c.in_place * (part + 1) / c.strips;
      with_strips<K>(a, [&](auto element, auto strips) {
        using T = decltype(element);
        strips.for_strips(t.r, [&](auto rows, auto pixels, int64_t y, int64_t x) {
          Image from = image(a, a.x, t.b, first), to = image(a, a.out, t.b, first);
          T *from_data = from.at<T>(0, 0), *to_data = to.at<T>(0, 0);
          for (int64_t i = first; i < last; i++, from_data += kLanes, to_data += kLanes) {
            from.data = from_data;
            to.data = to_data;
            strips.template forward<decltype(rows)::value, decltype(pixels)::value>(
                from, to, y, x, a.packed + i * packed);
          }
        });
      });
    }
  }

  // Adds what a tile gives to the sums of its part's blocks.
  static void backward_weight(const DepthwiseConv& a, const Tile& t, const Cut& c, int64_t part,
                              float* sums, float* scratch) {
    const int64_t packed = taps(a) * kLanes;
    if (part >= c.strips) {
      const int64_t block = c.in_place + part - c.strips;
      with_width(channels(a, block), [&](auto w) {
        Depthwise<K, decltype(w)::value>::backward_weight(image(a, a.x, t.b, block),
                                                          image(a, a.grad, t.b, block), t.r,
                                                          sums + block * packed, scratch);
      });
    } else if constexpr (takes_strips(K)) {
      const int64_t first = c.in_place * part / c.strips, last = c.in_place * (part + 1) / c.strips;
      // A sum for each tile and then over tiles loses less than one long sum.
      for (int64_t i = 0; i < (last - first) * packed; i++) scratch[i] = 0.f;
      with_strips<K>(a, [&](auto element, auto strips) {
        using T = decltype(element);
        strips.for_strips(t.r, [&](auto rows, auto pixels, int64_t y, int64_t x) {
          Image from = image(a, a.x, t.b, first), grad = image(a, a.grad, t.b, first);
          T *from_data = from.at<T>(0, 0), *grad_data = grad.at<T>(0, 0);
          float* to = scratch;
          for (int64_t i = first; i < last; i++, from_data += kLanes, grad_data += kLanes) {
            from.data = from_data;
            grad.data = grad_data;
            strips.template backward_weight<decltype(rows)::value, decltype(pixels)::value>(
                from, grad, y, x, to);
            to += packed;
          }
        });
      });
      for (int64_t i = 0; i < (last - first) * packed; i++) sums[first * packed + i] += scratch[i];
    }
  }
};

template <class F>
void dispatch(const DepthwiseConv& a, F&& f) {
  a.kernel == 3 ? f(Kernel<3>{}) : f(Kernel<7>{});
}

static void forward(const DepthwiseConv& a, int64_t begin, int64_t end, float* scratch) {
  const Cut c = cut(a, a.out);
  dispatch(a, [&](auto k) {
    for (int64_t i = begin; i < end; i++)
      decltype(k)::forward(a, tile_at(a, i / c.parts), c, i % c.parts, scratch);
  });
}

static void backward_weight(const DepthwiseConv& a, int64_t begin, int64_t end, float* scratch) {
  const Cut c = cut(a, a.grad);
  const int64_t tiles = a.tiles();
  dispatch(a, [&](auto k) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t group = i / c.parts;
      float* sums = a.sums + group * packed_size(a);
      for (int64_t t = tiles * group / a.groups; t < tiles * (group + 1) / a.groups; t++)
        decltype(k)::backward_weight(a, tile_at(a, t), c, i % c.parts, sums, scratch);
    }
  });
}

static void reduce(const DepthwiseConv& a) {
  const int64_t area = int64_t{a.kernel} * a.kernel, size = packed_size(a);
  for (int64_t block = 0; block < blocks_of(a); block++) {
    const int n = channels(a, block), w = width(n);
    for (int64_t k = 0; k <= area; k++) {
      const float* p = a.sums + (block * taps(a) * kLanes + k * w);
      double sum[kLanes] = {};
      for (int64_t g = 0; g < a.groups; g++)
        for (int i = 0; i < n; i++) sum[i] += p[g * size + i];
      for (int i = 0; i < n; i++) {
        const int64_t c = block * kLanes + i;
        (k < area ? a.dweight[c * area + k] : a.dbias[c]) = static_cast<float>(sum[i]);
      }
    }
  }
}

extern const DepthwiseConvKernel depthwise_conv_kernel = {
    [](const DepthwiseConv& a) { return cut(a, a.out).parts; },
    [](const DepthwiseConv& a) { return cut(a, a.grad).parts; },
    packed_size, scratch, pack, forward, backward_weight, reduce,
};

}  // namespace MOCE_ISA
}  // namespace moce
