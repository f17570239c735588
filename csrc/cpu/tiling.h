// How matrix products are divided into tiles of pixels x vectors that stay in registers, and where
// their results begin and end.
#pragma once

#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kSums = 8;  // that hide the latency of a multiply-add
constexpr int kTilePixels = 6, kTileVectors = kRegisters >= 32 ? 4 : 2;

// f(i, Int<n>) for i < count in steps of kTilePixels, or of twice as many next to few Vectors: fewer
// than Sums sums would not hide the latency of an addition. The last steps may be smaller.
template <int Vectors, int Sums, class F>
MOCE_INLINE void for_tiles(int64_t count, F&& f) {
  static_assert(kTilePixels == 6);
  int64_t i = 0;
  if constexpr (Vectors * kTilePixels < Sums)
    for (; i + 12 <= count; i += 12) f(i, Int<12>{});
  for (; i + 6 <= count; i += 6) f(i, Int<6>{});
  switch (count - i) {
    case 5: return f(i, Int<5>{});
    case 4: return f(i, Int<4>{});
    case 3: return f(i, Int<3>{});
    case 2: return f(i, Int<2>{});
    case 1: return f(i, Int<1>{});
  }
}

// f(n0, Int<N>) for n0 over `vectors` in steps of N <= kTileVectors.
template <class F>
MOCE_INLINE void for_vector_tiles(int64_t vectors, F&& f) {
  for (int64_t n = 0; n < vectors; n += kTileVectors) {
    const int64_t step = vectors - n;
    if (step >= kTileVectors) f(n, Int<kTileVectors>{});
    else if (step == 1) f(n, Int<1>{});
    else if constexpr (kTileVectors > 2) step == 2 ? f(n, Int<2>{}) : f(n, Int<3>{});
  }
}

// What a product is added to and where it goes: out[p][n] = bias[n] + product + start[p][n] for
// pixels p and vectors of channels n. bias and start may be null, start may be out.
struct Result {
  const float *bias, *start;
  int64_t start_pixel, start_vector;  // floats from one to the next
  float* out;
  int64_t out_pixel, out_vector;

  template <int W>
  MOCE_INLINE Result at(int64_t pixel, int64_t vector) const {
    return {bias ? bias + vector * W : nullptr,
            start ? start + pixel * start_pixel + vector * start_vector : nullptr, start_pixel,
            start_vector, out + pixel * out_pixel + vector * out_vector, out_pixel, out_vector};
  }
  template <int W, int M, int N>
  MOCE_INLINE void begin(Vec<W> (&sum)[M][N]) const {
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m][n] = bias ? load<W>(bias + n * W) : Vec<W>{};
  }
  template <int W, int M, int N>
  MOCE_INLINE void finish(Vec<W> (&sum)[M][N]) const {
    if (start)
      for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
          sum[m][n] += load<W>(start + m * start_pixel + n * start_vector);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) store<W>(out + m * out_pixel + n * out_vector, sum[m][n]);
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
