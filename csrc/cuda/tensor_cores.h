// Matrix products of 16-bit elements on tensor cores, summed in float32: each by a warp together.
//
// Every lane holds a part of each matrix, as the PTX ISA lays down for mma.m16n8k16 and ldmatrix. With
// g = lane / 4 and t = lane % 4, two elements to a word, the lower column or row in the lower half:
//   A, 16 x 16: word 0 has columns 2 t and 2 t + 1 of row g, word 1 of row g + 8; words 2 and 3 have the
//     columns 8 further;
//   B, 16 x 8: word 0 has rows 2 t and 2 t + 1 of column g, word 1 the rows 8 further;
//   C, 16 x 8: numbers 0 and 1 are columns 2 t and 2 t + 1 of row g, 2 and 3 of row g + 8.
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

// The A whose first element is at `corner` in shared memory, its rows `stride` elements apart: rows of
// eight elements are loaded, and must be aligned to 16 bytes.
template <class T>
__device__ MatrixA load_matrix(const T* corner, int stride) {
  static_assert(sizeof(T) == 2);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T* row = corner + lane % 16 * stride + lane / 16 * 8;
  MatrixA a;
#ifdef MOCE_EMULATED
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

// A B + C.
template <class T>
__device__ MatrixC multiply_add(const MatrixA& a, const MatrixB& b, const MatrixC& c) {
  MatrixC d;
#ifdef MOCE_EMULATED
  d = c;
  struct Both {
    T a[4][2], b[2][2];
  } mine, all[32];
  __builtin_memcpy(mine.a, a.words, sizeof a.words);
  __builtin_memcpy(mine.b, b.words, sizeof b.words);
  emulated_gather(&mine, sizeof mine, all);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      const T left = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2][k % 2];
      const T right = all[column * 4 + k % 8 / 2].b[k / 8][k % 2];
      d.numbers[i] += static_cast<float>(left) * static_cast<float>(right);
    }
  }
#else
#define MOCE_MULTIPLY_ADD(type)                                                                 \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, "  \
               "{%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                               \
               : "=f"(d.numbers[0]), "=f"(d.numbers[1]), "=f"(d.numbers[2]), "=f"(d.numbers[3])  \
               : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]),             \
                 "r"(b.words[0]), "r"(b.words[1]), "f"(c.numbers[0]), "f"(c.numbers[1]),         \
                 "f"(c.numbers[2]), "f"(c.numbers[3]))
  if constexpr (std::is_same_v<T, BFloat16>)
    MOCE_MULTIPLY_ADD("bf16");
  else
    MOCE_MULTIPLY_ADD("f16");
#undef MOCE_MULTIPLY_ADD
#endif
  return d;
}

}  // namespace moce
#endif
