// Matrix products on tensor cores, of 16-bit elements or of float32 as TF32, summed in float32: each by a
// warp together.
//
// Every lane holds a part of each matrix, as the PTX ISA lays down for mma.m16n8k16 and ldmatrix. With
// g = lane / 4 and t = lane % 4, two elements to a word, the lower column or row in the lower half:
//   A, 16 x 16: word 0 has columns 2 t and 2 t + 1 of row g, word 1 of row g + 8; words 2 and 3 have the
//     columns 8 further;
//   B, 16 x 8: word 0 has rows 2 t and 2 t + 1 of column g, word 1 the rows 8 further;
//   C, 16 x 8: numbers 0 and 1 are columns 2 t and 2 t + 1 of row g, 2 and 3 of row g + 8.
// Of float32, for mma.m16n8k8, a word is one element:
//   A, 16 x 8: word 0 is column t of row g, word 1 of row g + 8; words 2 and 3 are the columns 4 further;
//   B, 8 x 8: word 0 is row t of column g, word 1 the row 4 further;
//   C as above.
//
// TF32 is a float32 of whose 23 bits behind the point only the first 10 count. A float32 is the sum of two
// such numbers and 2^-23 of it at most: `high`, the nearest, and `low`, the first bits of the rest. Of the
// four products of two sums the least, 2^-22 of the whole, is left out.
#pragma once

#include "packed.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

struct MatrixA {
  unsigned words[4];
};
struct MatrixB {
  unsigned words[2];
};
struct MatrixC {
  float numbers[4];
};

#ifdef MOCE_EMULATED
// Of a factor what counts in TF32, which holds all of a 16-bit element; of a sum what a float has room for.
inline float emulated_factor(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  bits &= ~0x1fffu;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
inline float emulated_sum(double x) {
  const float nearest = static_cast<float>(x);
  return std::abs(nearest) > std::abs(x) ? std::nextafter(nearest, 0.f) : nearest;
}
#endif

// How many columns A has, and rows B.
template <class T>
constexpr int kDepth = 32 / sizeof(T);

// The A whose first element is at `corner` in shared memory, its rows `stride` elements apart: rows of
// 16 bytes are loaded, and must be aligned to as many.
template <class T>
__device__ MatrixA load_matrix(const T* corner, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T* row = corner + lane % 16 * stride + lane / 16 * (kDepth<T> / 2);
  MatrixA a;
#ifdef MOCE_EMULATED
  emulated_aligned(row, 16);
  unsigned mine[4], all[32][4];  // as they are at this lane's turn
  __builtin_memcpy(mine, row, sizeof mine);
  emulated_gather(mine, sizeof mine, all);
  for (int i = 0; i < 4; i++) a.words[i] = all[8 * i + lane / 4][lane % 4];
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.words[0]), "=r"(a.words[1]), "=r"(a.words[2]), "=r"(a.words[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
  return a;
}

// Of 16-bit elements the A, or the B, whose columns or rows lie across the rows of shared memory: where
// A's first element is at `corner`, its columns are rows, `stride` elements apart; B's rows are as they are.
// A lane has pairs from two rows of memory, which the instruction gathers.
template <class T, int WORDS>
__device__ void load_across(const T* row, unsigned (&words)[WORDS]) {
  static_assert(sizeof(T) == 2);
#ifdef MOCE_EMULATED
  const int lane = static_cast<int>(threadIdx.x % 32);
  emulated_aligned(row, 16);
  T mine[8], all[32][8];
  __builtin_memcpy(mine, row, sizeof mine);
  emulated_gather(mine, sizeof mine, all);
  for (int i = 0; i < WORDS; i++) {
    const T pair[2] = {all[8 * i + lane % 4 * 2][lane / 4], all[8 * i + lane % 4 * 2 + 1][lane / 4]};
    __builtin_memcpy(&words[i], pair, sizeof pair);
  }
#else
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (WORDS == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(from)
                 : "memory");
#endif
}
template <class T>
__device__ MatrixA load_transposed(const T* corner, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  MatrixA a;
  load_across(corner + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8, a.words);
  return a;
}
template <class T>
__device__ MatrixB load_rows(const T* corner, int stride) {
  MatrixB b;
  load_across(corner + static_cast<int>(threadIdx.x % 16) * stride, b.words);
  return b;
}

// A B + C. Of float32 what does not count in TF32 is ignored.
template <class T>
__device__ MatrixC multiply_add(const MatrixA& a, const MatrixB& b, const MatrixC& c) {
  MatrixC d;
#ifdef MOCE_EMULATED
  constexpr int of_word = 4 / sizeof(T), half = kDepth<T> / 2;
  struct Both {
    T a[4][of_word], b[2][of_word];
  } mine, all[32];
  __builtin_memcpy(mine.a, a.words, sizeof a.words);
  __builtin_memcpy(mine.b, b.words, sizeof b.words);
  emulated_gather(&mine, sizeof mine, all);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = c.numbers[i];
    for (int k = 0; k < kDepth<T>; k++) {
      const int at = k % half / of_word;
      const T left = all[row % 8 * 4 + at].a[row / 8 + k / half * 2][k % of_word];
      const T right = all[column * 4 + at].b[k / half][k % of_word];
      sum += double{emulated_factor(static_cast<float>(left))} * emulated_factor(static_cast<float>(right));
    }
    d.numbers[i] = emulated_sum(sum);
  }
#else
#define MOCE_MULTIPLY_ADD(shape, type)                                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                            \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"         \
               : "=f"(d.numbers[0]), "=f"(d.numbers[1]), "=f"(d.numbers[2]), "=f"(d.numbers[3])  \
               : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]),             \
                 "r"(b.words[0]), "r"(b.words[1]), "f"(c.numbers[0]), "f"(c.numbers[1]),         \
                 "f"(c.numbers[2]), "f"(c.numbers[3]))
  if constexpr (std::is_same_v<T, BFloat16>)
    MOCE_MULTIPLY_ADD("m16n8k16", "bf16");
  else if constexpr (std::is_same_v<T, Half>)
    MOCE_MULTIPLY_ADD("m16n8k16", "f16");
  else
    MOCE_MULTIPLY_ADD("m16n8k8", "tf32");
#undef MOCE_MULTIPLY_ADD
#endif
  return d;
}

// --- float32 as TF32 -----------------------------------------------------------------------------

__device__ inline unsigned bits_of(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  return bits;
}
__device__ inline float float_of(unsigned bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// The nearest number of TF32, in one instruction of PTX and five of a GPU.
__device__ inline float nearest_tf32(float x) {
#ifdef MOCE_EMULATED
  return float_of(bits_of(x) + (std::isfinite(x) ? 0x1000 : 0) & ~0x1fffu);
#else
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return float_of(bits);
#endif
}

// A as it is multiplied in P products. In one product `high` is all of it.
template <int P>
struct Parts {
  static_assert(P == 1 || P == 3);
  MatrixA high, low;
};
template <class T, int P>
__device__ Parts<P> load_parts(const T* corner, int stride) {
  Parts<P> parts;
  parts.high = load_matrix(corner, stride);
  if constexpr (sizeof(T) == 4)
    unroll<4>([&](auto i) {
      unsigned& high = parts.high.words[i.value];
      const float all = float_of(high);
      if constexpr (P == 1) {
        high = bits_of(nearest_tf32(all));
      } else {
        high = high + 0x1000 & ~0x1fffu;  // not of every NaN the nearest, but then `low` is one
        parts.low.words[i.value] = bits_of(all - float_of(high));
      }
    });
  return parts;
}

// How many B a lane has in 16 bytes: of 16-bit elements two, of float32 the two parts of one.
template <class T>
constexpr int kMatricesB = 4 / sizeof(T);

// A B + C, where B is number I of those in `b`: of float32 the product of the high parts.
template <class T, int I, int P>
__device__ MatrixC add_product(const Parts<P>& a, const uint4& b, const MatrixC& c) {
  return multiply_add<T>(a.high, I ? MatrixB{b.z, b.w} : MatrixB{b.x, b.y}, c);
}

// The least of A B + C with float32 and three products. Tensor cores cut off what a sum has no room for,
// always in the same direction: where these are summed by themselves that is little.
__device__ inline MatrixC add_rest(const Parts<3>& a, const uint4& b, const MatrixC& c) {
  const MatrixC first = multiply_add<float>(a.low, MatrixB{b.x, b.y}, c);
  return multiply_add<float>(a.high, MatrixB{b.z, b.w}, first);
}

}  // namespace moce
#endif
