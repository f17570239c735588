// Matrix products of bfloat16 pairs by AMX: tiles of 16 rows of 64 bytes, of which one instruction
// multiplies two and adds the product to a third of float32.
//
// With MOCE_EMULATED the instructions are written out in C++, so that the code around them can be
// tested on any processor.
#pragma once

#include "amx.h"
#include "tiling.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int64_t kAmxRows = 16;   // of a tile
constexpr int64_t kAmxPairs = 16;  // of a tile's row, or floats

#if defined(MOCE_HAS_AMX) && (defined(__AVX512BF16__) || defined(MOCE_EMULATED))
#define MOCE_AMX
#endif

#if defined(MOCE_EMULATED)

inline thread_local uint32_t emulated_tiles[8][16][16];

struct Tiles {
  template <int I>
  static void zero() {
    __builtin_memset(emulated_tiles[I], 0, sizeof emulated_tiles[I]);
  }
  template <int I>
  static void load(const void* from, int64_t row) {
    for (int i = 0; i < 16; i++)
      __builtin_memcpy(emulated_tiles[I][i], static_cast<const char*>(from) + i * row, 64);
  }
  template <int I>
  static void store(void* to, int64_t row) {
    for (int i = 0; i < 16; i++)
      __builtin_memcpy(static_cast<char*>(to) + i * row, emulated_tiles[I][i], 64);
  }
  template <int C, int A, int B>
  static void dot() {
    const auto lower = [](uint32_t pair) { return bit_cast<float>(pair << 16); };
    const auto upper = [](uint32_t pair) { return bit_cast<float>(pair & 0xffff0000u); };
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 16; n++) {
          const uint32_t a = emulated_tiles[A][m][k], b = emulated_tiles[B][k][n];
          float sum = bit_cast<float>(emulated_tiles[C][m][n]);
          sum += lower(a) * lower(b);
          sum += upper(a) * upper(b);
          emulated_tiles[C][m][n] = bit_cast<uint32_t>(sum);
        }
  }
};

#elif defined(MOCE_AMX)

// Configures all eight tiles and gives them back. In assembly, for GCC's intrinsics are macros that
// take literal numbers alone.
struct Tiles {
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  template <int I>
  MOCE_INLINE static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(I));
  }
  template <int I>
  MOCE_INLINE static void load(const void* from, int64_t row) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row), "i"(I) : "memory");
  }
  template <int I>
  MOCE_INLINE static void store(void* to, int64_t row) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row), "i"(I) : "memory");
  }
  template <int C, int A, int B>
  MOCE_INLINE static void dot() {
    asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(B), "i"(A), "i"(C));
  }
};

#endif

#if defined(MOCE_AMX)

// R x V tiles of results, of the pixels from `in` on and the vectors from `panel` on, whose rows have
// `width` pairs: sums in tiles 0 to 3, pixels in 4 and 5, the panel in 6 and 7.
template <int R, int V>
MOCE_INLINE void multiply_tiles(const uint32_t* in, int64_t in_pixel, int64_t pairs,
                                const float* panel, int64_t width, const Result& to) {
  constexpr int64_t kBytes = 4;
  unroll<R * V>([&](auto i) MOCE_INLINE_LAMBDA {
    constexpr int c = decltype(i)::value, v = c % V;
    if (to.bias) Tiles::load<c>(to.bias + v * kAmxPairs, 0);  // the same row sixteen times
    else Tiles::zero<c>();
  });
  for (int64_t k = 0; k < pairs; k += kAmxPairs) {
    unroll<R>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int r = decltype(i)::value;
      Tiles::load<4 + r>(in + r * kAmxRows * in_pixel + k, in_pixel * kBytes);
    });
    unroll<V>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int v = decltype(i)::value;
      Tiles::load<6 + v>(panel + k * width + v * kAmxPairs, width * kBytes);
    });
    unroll<R * V>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int c = decltype(i)::value;
      Tiles::dot<c, 4 + c / V, 6 + c % V>();
    });
  }
  unroll<R * V>([&](auto i) MOCE_INLINE_LAMBDA {
    constexpr int c = decltype(i)::value, r = c / V, v = c % V;
    const Result of = to.at<16>(r * kAmxRows, v);
    if (!of.start) return Tiles::store<c>(of.out, of.out_pixel * kBytes);
    alignas(64) float sums[kAmxRows][16];
    Tiles::store<c>(sums, sizeof sums[0]);
    for (int m = 0; m < kAmxRows; m++)
      store<16>(of.out + m * of.out_pixel,
                load<16>(sums[m]) + load<16>(of.start + m * of.start_pixel));
  });
}

// N vectors of 16 channels of `count` pixels, whole tiles of both.
template <int N>
MOCE_NOINLINE void multiply_by_tiles(const uint32_t* in, int64_t in_pixel, int64_t pairs,
                                     const float* panel, const Result& to, int count) {
  [[maybe_unused]] const Tiles tiles{};
  const auto rows = [&](int64_t p, auto r) MOCE_INLINE_LAMBDA {
    constexpr int R = decltype(r)::value;
    for (int v = 0; v + 2 <= N; v += 2)
      multiply_tiles<R, 2>(in + p * in_pixel, in_pixel, pairs, panel + v * kAmxPairs,
                           N * kAmxPairs, to.at<16>(p, v));
    if constexpr (N % 2 == 1)
      multiply_tiles<R, 1>(in + p * in_pixel, in_pixel, pairs, panel + (N - 1) * kAmxPairs,
                           N * kAmxPairs, to.at<16>(p, N - 1));
  };
  int64_t p = 0;
  for (; p + 2 * kAmxRows <= count; p += 2 * kAmxRows) rows(p, Int<2>{});
  if (p < count) rows(p, Int<1>{});
}

#endif

}  // namespace MOCE_ISA
}  // namespace moce
