// The parameters of fused_feedforward in the order in which lanes take them, 16 bytes at a time: those of
// kChunk channels of a and the same of b in one piece, as 16-bit elements T where they are multiplied on
// tensor cores. Without a gate a piece is of 2 kChunk channels, and its halves follow each other.
#pragma once

#include "fused_feedforward_kernel.h"
#include "tensor_cores.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

// Of one chunk; zeros for channels beyond N. See tensor_cores.h for B and C, and for g and t.
template <int K>  // C = 16 K
struct Parameters {
  // Of each half, pair of 8 channels and 16 channels that go in, for each lane its words of both B.
  uint4 project_in[2][2][K][32];
  // Of each 8 channels that come out, its words of the B of the first and the last 16 that are gated.
  uint4 project_out[2 * K][32];
  float in_bias[2][4][4][4];  // of each half and 8 channels, for each t its numbers of C
  float taps[2][9][kChunk];
  float depthwise_bias[2][kChunk];
};

template <class T>
__device__ unsigned word_of(float a, float b) {
  const float both[2] = {a, b};
  return pack<T, 2>(both).word;
}

template <class T>
__device__ float element(const FusedMatrix& m, int64_t row, int64_t column) {
  const int64_t at = row * m.row + column * m.column;
  return m.is_float ? static_cast<const float*>(m.data)[at]
                    : static_cast<float>(static_cast<const T*>(m.data)[at]);
}

// Word i of the parameters of all chunks, one after the other.
template <class T, int K>
__device__ unsigned packed_word(const FusedFeedforward& f, int64_t i) {
  using P = Parameters<K>;
  constexpr int C = 16 * K;
  static_assert(sizeof(P) == 4 * chunk_words(C));
  const int first = static_cast<int>(i / chunk_words(C)) * kChunk, N = f.N;
  int w = static_cast<int>(i % chunk_words(C));
  const bool gated = f.project_out.data;
  const auto hidden = [&](int half, int channel) {
    return gated ? int64_t{half} * N + first + channel : 2 * first + half * kChunk + channel;
  };
  const auto there = [&](int half, int channel) {
    return gated ? first + channel < N : hidden(half, channel) < N;
  };
  const auto bits = [](float x) { return pack<float, 1>({x}).word; };
  if (w < int{sizeof(P::project_in) / 4}) {
    const int lane = w / 4 % 32, tile = w % 4 / 2, g = lane / 4, t = lane % 4;
    const int k = w / 128 % K * 16 + 2 * t + w % 2 * 8, pair = w / (128 * K);
    const int channel = pair % 2 * 16 + tile * 8 + g, half = pair / 2;
    if (!there(half, channel)) return 0;
    const int64_t row = hidden(half, channel);
    return word_of<T>(element<T>(f.project_in, row, k), element<T>(f.project_in, row, k + 1));
  }
  w -= sizeof(P::project_in) / 4;
  if (w < int{sizeof(P::project_out) / 4}) {
    if (!gated) return 0;
    const int lane = w / 4 % 32, g = lane / 4, t = lane % 4;
    const int k = w % 4 / 2 * 16 + 2 * t + w % 2 * 8, channel = w / 128 * 8 + g;
    const auto weight = [&](int of) {
      return there(0, of) ? element<T>(f.project_out, channel, first + of) : 0.f;
    };
    return word_of<T>(weight(k), weight(k + 1));
  }
  w -= sizeof(P::project_out) / 4;
  if (w < int{sizeof(P::in_bias) / 4}) {
    const int channel = w / 16 % 4 * 8 + w / 4 % 4 * 2 + w % 2, half = w / 64;
    return bits(f.in_bias && there(half, channel) ? f.in_bias[hidden(half, channel)] : 0.f);
  }
  w -= sizeof(P::in_bias) / 4;
  const int channel = w % kChunk;
  if (w < int{sizeof(P::taps) / 4}) {
    const int tap = w / kChunk % 9, half = w / kChunk / 9;
    return bits(there(half, channel) ? f.depthwise[hidden(half, channel) * 9 + tap] : 0.f);
  }
  const int half = (w - sizeof(P::taps) / 4) / kChunk;
  const bool given = f.depthwise_bias && there(half, channel);
  return bits(given ? f.depthwise_bias[hidden(half, channel)] : 0.f);
}

}  // namespace moce
#endif
