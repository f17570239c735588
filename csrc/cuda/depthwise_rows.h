// What the depthwise kernels share: rows of pixels that a thread slides down over.
//
// A thread owns one channel, or two neighbours that lie in one 32-bit word, and a run of N columns. Of
// each row it loads the N + K - 1 pixels that its results need, once, a row ahead of their use, and
// multiplies them into the K rows of results that they belong to: K^2 products for each result and
// (N + K - 1) / N loads. With channels-last memory neighbouring lanes have neighbouring channels, so
// that loads are coalesced, and a warp goes on to the next run where the channels end; in other memory
// neighbouring lanes have neighbouring runs. All threads of a block work on the same rows.
#pragma once

#include <type_traits>

#include "depthwise_tiles.h"
#include "device.h"
#include "packed.h"

namespace moce {

#if defined(__CUDACC__) || defined(MOCE_EMULATED)

// Where a thread's results lie: rows y to end, columns from x on, which may lie beyond the image. Of
// the units whose taps are staged, `first` is the first and the thread's own has number `local`.
struct Place {
  int64_t b;
  int y, end, x;
  unsigned unit, first, local;
};

template <int N>
__device__ Place place(const RowTiles& s, unsigned block, int height) {
  const unsigned row = block / s.across, start = block % s.across * kRowThreads;
  const unsigned item = start + threadIdx.x, size = s.channels_last ? s.units : s.runs;
  const unsigned slow = item / size, fast = item % size;
  Place at;
  at.b = row / s.down;
  at.y = static_cast<int>(row % s.down * s.rows);
  at.end = min(height, at.y + static_cast<int>(s.rows));
  if (s.channels_last) {
    at.first = start % s.units;
    at.unit = fast;
    at.local = threadIdx.x % s.units;
    at.x = static_cast<int>(slow * N);
  } else {
    at.first = start / s.runs;
    at.unit = slow;
    at.local = slow - at.first;
    at.x = slow < s.units ? static_cast<int>(fast * N) : INT32_MAX;
  }
  return at;
}

// Copies the taps of a block's units, `count` floats each, to shared memory; after the last unit comes
// the first again.
__device__ inline void stage(const RowTiles& s, const Place& at, const float* from, int count,
                             float* to) {
  const int64_t first = int64_t{at.first} * count, all = int64_t{s.units} * count;
  for (unsigned i = threadIdx.x; i < s.staged * count; i += kRowThreads)
    to[i] = from[first + i < all ? first + i : first + i - all];
}

// A thread's taps, (K K, CH), or those of the convolution backwards.
template <int TAPS, int CH>
__device__ void read_taps(const float* staged, const Place& at, bool flip, float (&to)[TAPS][CH]) {
  unroll<TAPS * CH>([&](auto i) {
    constexpr int t = decltype(i)::value % TAPS, c = decltype(i)::value / TAPS;
    to[t][c] = staged[(at.local * CH + c) * TAPS + (flip ? TAPS - 1 - t : t)];
  });
}

template <int CH>
__device__ void read_bias(const float* bias, int64_t c, float (&to)[CH]) {
  unroll<CH>([&](auto i) { to[i.value] = bias ? bias[c + i.value] : 0.f; });
}

// Which of `count` columns from x on lie in the image, a bit for each.
__device__ constexpr unsigned all_columns(int count) { return (1u << count) - 1; }
__device__ inline unsigned columns_inside(int x, int count, int width) {
  const unsigned all = all_columns(count), left = x < 0 ? all << -x : all;
  return x + count <= width ? left & all : left & (1u << (width - x)) - 1;
}

// S pixels of one row after another; zeros for columns outside the image.
template <class T, int CH, int S>
class RowReader {
 public:
  __device__ RowReader(const Strided& s, int64_t b, int64_t c, int y, int x, int width)
      : from_(static_cast<const T*>(s.data) + b * s.b + c * s.c + y * s.h + x * s.w),
        down_(s.h), across_(s.w), inside_(columns_inside(x, S, width)) {
    unroll<S>([&](auto i) { raw_[i.value] = {}; });  // as those outside remain
  }
  __device__ void fetch() {
    if (inside_ == all_columns(S))
      unroll<S>([&](auto i) { load<i.value>(); });
    else
      unroll<S>([&](auto i) {
        if (inside_ >> i.value & 1) load<i.value>();
      });
    from_ += down_;
  }
  __device__ void read(float (&to)[S][CH]) const {
    unroll<S>([&](auto i) { unpack<T, CH>(raw_[i.value], to[i.value]); });
#ifndef MOCE_EMULATED
    // Here and not where they are used, or else the next row is loaded to other registers first and
    // has to be moved.
    unroll<S * CH>([&](auto i) { asm volatile("" : "+f"(to[i.value / CH][i.value % CH])); });
#endif
  }

 private:
  template <int I>
  __device__ void load() {
    raw_[I] = load_packed<T, CH>(from_ + I * across_);
  }
  const T* from_;
  int64_t down_, across_;
  unsigned inside_;
  Packed<T, CH> raw_[S];
};

// The same for results, of which those outside the image are dropped.
template <class T, int CH, int N>
class RowWriter {
 public:
  __device__ RowWriter(const Strided& s, int64_t b, int64_t c, int y, int x, int width)
      : to_(static_cast<T*>(s.data) + b * s.b + c * s.c + y * s.h + x * s.w),
        down_(s.h), across_(s.w), inside_(columns_inside(x, N, width)) {}
  __device__ void write(const float (&from)[N][CH]) {
    if (inside_ == all_columns(N))
      unroll<N>([&](auto n) { store_packed<T, CH>(to_ + n.value * across_, from[n.value]); });
    else
      unroll<N>([&](auto n) {
        if (inside_ >> n.value & 1)
          store_packed<T, CH>(to_ + n.value * across_, from[n.value]);
      });
    to_ += down_;
  }

 private:
  T* to_;
  int64_t down_, across_;
  unsigned inside_;
};

// K - 1 rows of results that still lack some of their inputs.
template <int K, int N, int CH>
class SlidingRows {
 public:
  __device__ SlidingRows(const float (&bias)[CH]) {
    unroll<CH>([&](auto c) { bias_[c.value] = bias[c.value]; });
    unroll<K - 1>([&](auto i) {
      unroll<N * CH>([&](auto j) {
        sum_[i.value][j.value / CH][j.value % CH] = bias[j.value % CH];
      });
    });
  }
  // Adds a row of inputs to all, and takes out the row of results that needs no more. A row's sums
  // move one place down as the first product is added to them, which costs no instruction.
  __device__ void add(const float (&pixel)[N + K - 1][CH], const float (&tap)[K * K][CH],
                      float (&done)[N][CH]) {
    unroll<K>([&](auto i) { add_to<i.value>(pixel, tap, done); });
  }
  // Only to those from number `from` on, before number `to`; the others are of no use any more.
  __device__ void add(const float (&pixel)[N + K - 1][CH], const float (&tap)[K * K][CH],
                      float (&done)[N][CH], int from, int to) {
    if (from <= 0 && to >= K) return add(pixel, tap, done);
    unroll<K>([&](auto i) {
      if (i.value >= from && i.value < to) add_to<i.value>(pixel, tap, done);
    });
  }
  // After the last row of the image: row i of those that lack none of its rows.
  template <int I>
  __device__ const float (&rest() const)[N][CH] { return sum_[I]; }

 private:
  template <int I>
  __device__ void add_to(const float (&pixel)[N + K - 1][CH], const float (&tap)[K * K][CH],
                         float (&done)[N][CH]) {
    unroll<N * CH>([&](auto j) {
      constexpr int n = decltype(j)::value / CH, c = decltype(j)::value % CH;
      float sum = I < K - 1 ? sum_[I % (K - 1)][n][c] : bias_[c];
      unroll<K>([&](auto kx) {
        sum += tap[(K - 1 - I) * K + kx.value][c] * pixel[n + kx.value][c];
      });
      (I ? sum_[(I + K - 2) % (K - 1)][n][c] : done[n][c]) = sum;
    });
  }
  float bias_[CH], sum_[K - 1][N][CH];
};

#endif

}  // namespace moce
