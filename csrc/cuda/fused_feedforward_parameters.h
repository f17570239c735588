// The parameters of fused_feedforward in the order in which lanes take them, 16 bytes at a time: those of
// some channels of a and the same of b in one piece, a chunk. What is multiplied on tensor cores is in
// 16-bit elements T, or for float32 in two numbers of TF32 that add up to it. Without a gate a piece is of
// twice as many channels, and its halves follow each other; after `split` channels a new one begins.
#pragma once

#include "fused_feedforward_kernel.h"
#include "tensor_cores.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

// Of one chunk; zeros for channels beyond N. See tensor_cores.h for B and C, and for g and t.
template <class T, int K>  // C = 16 K
struct Parameters {
  static constexpr int kChunk = chunk_channels(sizeof(T)), kTogether = kMatricesB<T>;
  // Of each 8 kTogether channels and kDepth channels that go in, for each lane its words of all B.
  uint4 project_in[2 * kChunk / 8 / kTogether][16 * K / kDepth<T>][32];
  // Of each 8 channels that come out, its words of the B of the first kDepth and the last that are gated.
  uint4 project_out[2 * K][2 / kTogether][32];
  float in_bias[2 * kChunk / 8][4][4];  // of each 8 channels, for each t its numbers of C
  float taps[2][9][kChunk];
  float depthwise_bias[2][kChunk];
};

template <class T>
__device__ float element(const FusedMatrix& m, int64_t row, int64_t column) {
  const int64_t at = row * m.row + column * m.column;
  return m.is_float ? static_cast<const float*>(m.data)[at]
                    : static_cast<float>(static_cast<const T*>(m.data)[at]);
}

// Of a chunk without a gate.
struct Channels {
  int first, count;
};
template <class T>
__device__ Channels channels_of(const FusedFeedforward& f, int chunk) {
  constexpr int size = 2 * chunk_channels(sizeof(T));
  const int before = (f.split + size - 1) / size, from = chunk < before ? 0 : f.split;
  const int first = from + (chunk < before ? chunk : chunk - before) * size;
  return {first, min(size, (chunk < before ? f.split : f.N) - first)};
}

// What words of B are made of: word `word` of the 16 bytes that a lane with this t has there. Of the B's
// columns `weight` gives the rows.
template <class T, class Weight>
__device__ unsigned matrix_word(int word, int t, Weight&& weight) {
  const int row = word % 2 * (kDepth<T> / 2);
  if constexpr (sizeof(T) == 4) {
    const float all = weight(row + t), high = nearest_tf32(all);
    return pack<float, 1>({word / 2 ? nearest_tf32(all - high) : high}).word;
  } else {
    return pack<T, 2>({weight(row + 2 * t), weight(row + 2 * t + 1)}).word;
  }
}

// Word i of the parameters of all chunks, one after the other.
template <class T, int K>
__device__ unsigned packed_word(const FusedFeedforward& f, int64_t i) {
  using P = Parameters<T, K>;
  constexpr int C = 16 * K, chunk = P::kChunk, words = chunk_words(sizeof(T), C);
  constexpr int depth = kDepth<T>, together = P::kTogether;
  static_assert(sizeof(P) == 4 * words);
  const int number = static_cast<int>(i / words), first = number * chunk, N = f.N;
  const Channels ungated = channels_of<T>(f, number);
  int w = static_cast<int>(i % words);
  const bool gated = f.project_out.data;
  const auto hidden = [&](int half, int channel) {
    return gated ? int64_t{half} * N + first + channel : ungated.first + half * chunk + channel;
  };
  const auto there = [&](int half, int channel) {
    return gated ? first + channel < N : half * chunk + channel < ungated.count;
  };
  const auto bits = [](float x) { return pack<float, 1>({x}).word; };
  const int word = w % 4, lane = w / 4 % 32, g = lane / 4, t = lane % 4;
  // Which B of those that are together.
  const int matrix = together == 1 ? 0 : word / 2;
  if (w < int{sizeof(P::project_in) / 4}) {
    const int k = w / 128 % (C / depth) * depth;
    const int of_both = (w / 128 / (C / depth) * together + matrix) * 8 + g;
    const int half = of_both / chunk, channel = of_both % chunk;
    if (!there(half, channel)) return 0;
    return matrix_word<T>(word, t, [&](int row) {
      return element<T>(f.project_in, hidden(half, channel), k + row);
    });
  }
  w -= sizeof(P::project_in) / 4;
  if (w < int{sizeof(P::project_out) / 4}) {
    if (!gated) return 0;
    const int k = (w / 128 % (2 / together) + matrix) * depth;
    const int channel = w / 128 / (2 / together) * 8 + g;
    return matrix_word<T>(word, t, [&](int row) {
      const int of = k + row;
      return there(0, of) ? element<T>(f.project_out, channel, first + of) : 0.f;
    });
  }
  w -= sizeof(P::project_out) / 4;
  if (w < int{sizeof(P::in_bias) / 4}) {
    const int of_both = w / 16 * 8 + w / 4 % 4 * 2 + w % 2;
    const int half = of_both / chunk, channel = of_both % chunk;
    return bits(f.in_bias && there(half, channel) ? f.in_bias[hidden(half, channel)] : 0.f);
  }
  w -= sizeof(P::in_bias) / 4;
  const int channel = w % chunk;
  if (w < int{sizeof(P::taps) / 4}) {
    const int tap = w / chunk % 9, half = w / chunk / 9;
    return bits(there(half, channel) ? f.depthwise[hidden(half, channel) * 9 + tap] : 0.f);
  }
  const int half = (w - sizeof(P::taps) / 4) / chunk;
  const bool given = f.depthwise_bias && there(half, channel);
  return bits(given ? f.depthwise_bias[hidden(half, channel)] : 0.f);
}

}  // namespace moce
#endif
