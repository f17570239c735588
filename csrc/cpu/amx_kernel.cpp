// A product by AMX of small integers, which is exact, beside the same one by integers.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "amx_tiles.h"

namespace moce {
inline namespace MOCE_ISA {

#if defined(MOCE_AMX)

// Two rows of tiles at once, then one; two columns at once, then one.
static bool right() {
  constexpr int kPixels = 48, kVectors = 3, kChannels = kVectors * 16, kPairs = 32;
  const auto pair = [](int first, int second) {
    const auto bits = [](int x) { return bit_cast<uint32_t>(float(x)); };
    return bits(first) >> 16 | (bits(second) & 0xffff0000u);
  };
  const auto factor = [](int p, int k) { return (p * 7 + k * 3) % 5 - 2; };
  const auto weight = [](int k, int n) { return (k * 5 + n * 2) % 7 - 3; };
  alignas(64) uint32_t in[kPixels][kPairs], panel[kPairs][kChannels];
  alignas(64) float bias[kChannels], start[kPixels][kChannels], out[kPixels][kChannels];
  for (int k = 0; k < kPairs; k++) {
    for (int p = 0; p < kPixels; p++) in[p][k] = pair(factor(p, 2 * k), factor(p, 2 * k + 1));
    for (int n = 0; n < kChannels; n++)
      panel[k][n] = pair(weight(2 * k, n), weight(2 * k + 1, n));
  }
  for (int n = 0; n < kChannels; n++) {
    bias[n] = float(n % 3);
    for (int p = 0; p < kPixels; p++) start[p][n] = float((p + n) % 4);
  }
  for (int with_start = 0; with_start < 2; with_start++) {
    const float* added = with_start ? &start[0][0] : nullptr;
    const Result to{bias, added, kChannels, 16, &out[0][0], kChannels, 16};
    multiply_by_tiles<kVectors>(&in[0][0], kPairs, kPairs,
                                reinterpret_cast<const float*>(&panel[0][0]), to, kPixels);
    for (int p = 0; p < kPixels; p++)
      for (int n = 0; n < kChannels; n++) {
        int sum = n % 3 + (added ? (p + n) % 4 : 0);
        for (int k = 0; k < 2 * kPairs; k++) sum += factor(p, k) * weight(k, n);
        if (out[p][n] != float(sum)) return false;
      }
  }
  return true;
}

#else

static bool right() { return false; }

#endif

extern const AmxKernel amx_kernel = {right};

}  // namespace MOCE_ISA
}  // namespace moce
