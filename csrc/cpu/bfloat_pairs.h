// Matrix products of bfloat16 by the processor's own dot products, which multiply two neighbours of
// the inner dimension at once and add them up in float32.
//
// Two such neighbours, a pair, lie in 32 bits, the first in the lower half. Factors are rounded to
// pairs when they are packed (weights) or just before they are multiplied (pixels, in a first-level
// cache). Where the processor has no dot products nothing of this is used.
#pragma once

#include <type_traits>

#include "amx_tiles.h"
#include "tiling.h"

namespace moce {
inline namespace MOCE_ISA {

#if defined(__AVX512BF16__) || defined(MOCE_EMULATED)
constexpr bool kDotProducts = true;
#else
constexpr bool kDotProducts = false;
#endif

// Whether tensors of type T are multiplied in pairs.
template <class T>
constexpr bool kPaired = kDotProducts && std::is_same_v<T, BFloat16>;

// What tensors of type T are multiplied as.
template <class T>
using Operand = std::conditional_t<kPaired<T>, BFloat16, float>;

// Pairs that a row of `inner` numbers takes: zeros fill a whole tile if the numbers fill half of one,
// else a whole pair. A panel of pairs is thus never larger than one of floats.
MOCE_INLINE bool fills_tiles(int64_t inner) { return inner >= kAmxPairs; }
MOCE_INLINE int64_t pairs_of(int64_t inner) {
  return fills_tiles(inner) ? (inner + 2 * kAmxPairs - 1) / (2 * kAmxPairs) * kAmxPairs
                            : (inner + 1) / 2;
}

// Operands from one pixel to the next in a buffer of C channels: zeros follow these.
template <int W, class T>
MOCE_INLINE int64_t operand_row(int64_t C) {
  return kPaired<T> && 2 * pairs_of(C) > whole<W>(C) ? 2 * pairs_of(C) : whole<W>(C);
}

// sum + a's first b's first + a's second b's second, in each lane.
template <int W>
MOCE_INLINE Vec<W> dot(Vec<W> sum, VecU32<W> a, VecU32<W> b) {
#if defined(__AVX512BF16__)
  if constexpr (W == 16)
    return (Vec<W>)_mm512_dpbf16_ps((__m512)sum, bit_cast<__m512bh>(a), bit_cast<__m512bh>(b));
#endif
  const VecU32<W> upper = VecU32<W>{} + 0xffff0000u;
  sum += bit_cast<Vec<W>>(a << 16) * bit_cast<Vec<W>>(b << 16);
  return sum + bit_cast<Vec<W>>(a & upper) * bit_cast<Vec<W>>(b & upper);
}

// Lane by lane the pair of a and b.
template <int W>
MOCE_INLINE VecU32<W> pair(Vec<W> a, Vec<W> b) {
  return __builtin_convertvector(narrow<W>(a, BFloat16{}), VecU32<W>) |
         __builtin_convertvector(narrow<W>(b, BFloat16{}), VecU32<W>) << 16;
}

// `inner` floats as pairs, zeros after them.
template <int W>
MOCE_INLINE void pair_row(const float* from, int64_t inner, uint32_t* to) {
  auto* at = reinterpret_cast<BFloat16*>(to);
  const int64_t end = 2 * pairs_of(inner);
  for (int64_t k = 0; k < end; k += W) {
    const int64_t exist = inner - k, room = end - k;
    const Vec<W> x = exist >= W  ? load<W>(from + k)
                     : exist > 0 ? load_first<W>(from + k, int(exist))
                                 : Vec<W>{};
    room >= W ? store<W>(at + k, x) : store_first<W>(at + k, x, int(room));
  }
}

// Rows first <= k < first + count of a matrix (inner, width) to their place in a panel of pairs. Rows
// are `row` floats apart, of which `exist` are there, the others zero.
template <int W, class From>
MOCE_NOINLINE void pair_rows(const From* from, int64_t row, int64_t exist, int64_t first,
                             int64_t count, int64_t width, float* panel) {
  char* halves = reinterpret_cast<char*>(panel);
  for (int64_t n = 0; n < width; n += W) {
    const int lanes = exist - n >= W ? W : exist > n ? int(exist - n) : 0;
    const auto at = [&](int64_t k) MOCE_INLINE_LAMBDA {
      const From* p = from + (k - first) * row + n;
      return lanes == W ? load<W>(p) : lanes ? load_first<W>(p, lanes) : Vec<W>{};
    };
    const auto put_half = [&](int64_t k) MOCE_INLINE_LAMBDA {
      const VecU16<W> bits = narrow<W>(at(k), BFloat16{});
      for (int i = 0; i < W; i++) {
        const uint16_t half = bits[i];
        __builtin_memcpy(halves + (k / 2 * width + n + i) * 4 + k % 2 * 2, &half, sizeof half);
      }
    };
    int64_t k = first;
    if (k % 2) put_half(k++);
    for (; k + 1 < first + count; k += 2) {
      const VecU32<W> both = pair<W>(at(k), at(k + 1));
      __builtin_memcpy(panel + k / 2 * width + n, &both, sizeof both);
    }
    if (k < first + count) put_half(k);
  }
}
// Zeros where a panel's pairs have no rows.
MOCE_INLINE void fill_pairs(int64_t inner, int64_t width, float* panel) {
  if (inner % 2)
    for (int64_t n = 0; n < width; n++)
      __builtin_memset(reinterpret_cast<char*>(panel + inner / 2 * width + n) + 2, 0, 2);
  for (int64_t i = (inner + 1) / 2 * width; i < pairs_of(inner) * width; i++) panel[i] = 0.f;
}

// to[k * to_row + i] = pair k of row i, for `inner` floats of rows i < rows; zero for i up to W.
template <int W>
MOCE_NOINLINE void transpose_pairs(const float* from, int64_t from_row, int rows, int64_t inner,
                                   float* to, int64_t to_row) {
  const int64_t pairs = pairs_of(inner);
  for (int64_t k = 0; k < pairs; k += W) {
    const int n = pairs - k < W ? int(pairs - k) : W;
    Vec<W> square[W];
    for (int i = 0; i < W; i++) {
      const float* row = from + i * from_row + 2 * k;
      const int64_t left = i < rows ? inner - 2 * k : 0;
      alignas(64) BFloat16 line[2 * W];
      for (int half = 0; half < 2; half++) {
        const int64_t more = left - half * W;
        store<W>(line + half * W, more >= W ? load<W>(row + half * W)
                                  : more > 0 ? load_first<W>(row + half * W, int(more))
                                             : Vec<W>{});
      }
      square[i] = load<W>(reinterpret_cast<const float*>(line));
    }
    transpose<W>(square);
    for (int i = 0; i < n; i++) store<W>(to + (k + i) * to_row, square[i]);
  }
}

// to[i * to_row + k] = pair k of column i < columns of `inner` rows, zeros after them.
template <int W, class From>
MOCE_NOINLINE void pair_columns(const From* from, int64_t from_row, int inner, int columns,
                                uint32_t* to, int64_t to_row) {
  for (int64_t k = 0; k < to_row; k += W)
    for (int i = 0; i < columns; i += W) {
      const int lanes = columns - i < W ? columns - i : W;
      const auto at = [&](int64_t row) MOCE_INLINE_LAMBDA {
        const From* p = from + row * from_row + i;
        return row >= inner ? Vec<W>{} : lanes == W ? load<W>(p) : load_first<W>(p, lanes);
      };
      Vec<W> square[W];
      for (int j = 0; j < W; j++)
        square[j] = bit_cast<Vec<W>>(pair<W>(at(2 * (k + j)), at(2 * (k + j) + 1)));
      transpose<W>(square);
      const int room = to_row - k < W ? int(to_row - k) : W;
      for (int j = 0; j < lanes; j++)
        store_first<W>(reinterpret_cast<float*>(to) + (i + j) * to_row + k, square[j], room);
    }
}

template <int W, int M, int N>
MOCE_INLINE void dot_tile(const uint32_t* in, int64_t in_pixel, int64_t pairs, const float* panel,
                          const Result& to) {
  Vec<W> sum[M][N];
  to.begin<W>(sum);
  for (int64_t k = 0; k < pairs; k++, panel += N * W) {
    VecU32<W> row[N];
    for (int n = 0; n < N; n++) row[n] = bit_cast<VecU32<W>>(load<W>(panel + n * W));
    for (int m = 0; m < M; m++) {
      uint32_t both;
      __builtin_memcpy(&both, in + m * in_pixel + k, sizeof both);
      const VecU32<W> own = VecU32<W>{} + both;
      for (int n = 0; n < N; n++) sum[m][n] = dot<W>(sum[m][n], own, row[n]);
    }
  }
  to.finish<W>(sum);
}

// As multiply_columns, of `inner` numbers in pairs; the panel has N vectors.
template <int W, int N>
MOCE_NOINLINE void multiply_pairs(const uint32_t* in, int64_t in_pixel, int64_t inner,
                                  const float* panel, const Result& to, int count) {
  int64_t done = 0;
#if defined(MOCE_AMX)
  if (count >= kAmxRows && fills_tiles(inner) && amx_usable()) {
    done = count / kAmxRows * kAmxRows;
    multiply_by_tiles<N>(in, in_pixel, pairs_of(inner), panel, to, done);
  }
#endif
  for_tiles<N, 2 * kSums>(count - done, [&](int64_t i, auto M) MOCE_INLINE_LAMBDA {
    const int64_t p = done + i;
    dot_tile<W, decltype(M)::value, N>(in + p * in_pixel, in_pixel, (inner + 1) / 2, panel,
                                       to.at<W>(p, 0));
  });
}

// In a first-level cache: a tile's rows of so much of the inner dimension.
constexpr int64_t kInnerAtOnce = 768, kPairsAtOnce = kAmxRows * kInnerAtOnce / 2;

// As multiply_panels, for panels of pairs.
template <int W>
MOCE_NOINLINE void multiply_pair_panels(const float* in, int64_t in_pixel, int64_t inner,
                                        const float* panels, int64_t channels, const Result& to,
                                        int count) {
  alignas(64) uint32_t pairs[kPairsAtOnce];
  for (int64_t k = 0; k < inner; k += kInnerAtOnce) {
    const int64_t part = inner - k < kInnerAtOnce ? inner - k : kInnerAtOnce, row = pairs_of(part);
    const int64_t fit = kPairsAtOnce / row;
    const int64_t most = fit < kAmxRows ? fit : fit / kAmxRows * kAmxRows;
    for (int64_t p = 0; p < count; p += most) {
      const int n = int(count - p < most ? count - p : most);
      for (int i = 0; i < n; i++)
        pair_row<W>(in + (p + i) * in_pixel + k, part, pairs + i * row);
      for_vector_tiles(whole<W>(channels) / W, [&](int64_t v, auto N) MOCE_INLINE_LAMBDA {
        constexpr int width = decltype(N)::value;
        Result of = to.at<W>(p, v);
        if (k > 0)
          of = {nullptr, of.out, of.out_pixel, of.out_vector, of.out, of.out_pixel, of.out_vector};
        multiply_pairs<W, width>(pairs, row, part, panels + v * W * inner + k / 2 * width * W, of,
                                 n);
      });
    }
  }
}

// Of pairs that are such already, with zeros after each pixel's.
template <int W>
MOCE_INLINE void multiply_pair_panels(const BFloat16* in, int64_t in_pixel, int64_t inner,
                                      const float* panels, int64_t channels, const Result& to,
                                      int count) {
  for_vector_tiles(whole<W>(channels) / W, [&](int64_t v, auto N) MOCE_INLINE_LAMBDA {
    multiply_pairs<W, decltype(N)::value>(reinterpret_cast<const uint32_t*>(in), in_pixel / 2,
                                          inner, panels + v * W * inner, to.at<W>(0, v), count);
  });
}

// As add_outer: pixels are the inner dimension.
template <int W, class A, class B>
MOCE_NOINLINE void add_paired_outer(const A* a, int64_t a_pixel, int64_t rows, const B* b,
                                    int64_t b_pixel, int64_t channels, int count, float* sum) {
  constexpr int kPixels = 96, kRows = 64;
  static_assert(kRows % W == 0);
  constexpr int64_t kPanel = kTileVectors * W;
  alignas(64) float panel[kPixels / 2 * kPanel];
  alignas(64) uint32_t own[kRows * kPixels / 2];
  for (int p = 0; p < count; p += kPixels) {
    const int n = count - p < kPixels ? count - p : kPixels;
    for (int64_t i = 0; i < rows; i += kRows) {
      const int m = rows - i < kRows ? int(rows - i) : kRows;
      pair_columns<W>(a + p * a_pixel + i, a_pixel, n, m, own, pairs_of(n));
      for_vector_tiles(channels / W, [&](int64_t v, auto N) MOCE_INLINE_LAMBDA {
        constexpr int width = decltype(N)::value;
        pair_rows<W>(b + p * b_pixel + v * W, b_pixel, width * W, 0, n, width * W, panel);
        fill_pairs(n, width * W, panel);
        float* at = sum + i * channels + v * W;
        multiply_pairs<W, width>(own, pairs_of(n), n, panel,
                                 {nullptr, at, channels, W, at, channels, W}, m);
      });
    }
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
