// A gated feed-forward network in one kernel, its first two steps alone, and these with the sums of
// attention over channels: what fused_feedforward_kernel.cu and fused_projection_kernel.cu offer
// to fused_feedforward.cu.
#pragma once

#include <cuda_runtime.h>

#include "moce/types.h"

namespace moce {

// Of float32, or of x's elements; null: there is none.
struct FusedMatrix {
  const void* data;
  int64_t row, column;  // strides
  bool is_float;
};

struct FusedFeedforward {
  int64_t B, C;
  int H, W;
  int N;          // channels after the depthwise convolution, or the gate if there is one
  const void* x;  // channels are adjacent; the strides of images, rows and columns:
  int64_t image;
  int row, column;
  void* out;     // (B, H, W, C or N - split) without gaps
  bool aligned;  // x can be loaded 16 bytes at a time
  bool norm;
  float eps;
  bool tf32;  // float32 is multiplied as one product of TF32 and not as three
  // Without a gate N in place of 2 N, and nothing that comes after it. Null where there is no bias.
  FusedMatrix project_in;                             // (2 N, C)
  const float *in_bias, *depthwise, *depthwise_bias;  // (2 N), (2 N, 3, 3), (2 N)
  FusedMatrix project_out;                            // (C, N)
  const float* out_bias;                              // (C)
  void* packed;  // chunks * chunk_words(C) words of 32 bits, which `pack` writes and `run` reads
  unsigned chunks, across, down;  // how many chunks N has, tiles an image has
  // Of attention, without a gate: q and k are the channels before `split`, and are not written. Else 0.
  int split;
  int head;        // channels of one
  float* sums;     // (B, parts, C head + 2 C): of q k^T by heads, of q^2 and of k^2
  unsigned parts;  // blocks of an image, each of which takes every parts-th tile
};

// The result's tile of a block, and the channels that it gates at a time, which without a gate are half
// of those that it convolves: for elements of `size` bytes, what shared memory has room for.
constexpr int kTileWidth = 16;
constexpr int tile_height(int size, int64_t C) { return C > 64 ? 4 : size == 4 && C > 32 ? 8 : 12; }
constexpr int chunk_channels(int size) { return 64 / size; }
// For the sums of attention, in 16 bits: with 16, 32, 48 and 96 channels two blocks fit on a multiprocessor
// of 8.0, on one of 9.0 with any number.
constexpr int attention_height(int64_t C) { return C > 64 ? 4 : C > 32 ? 8 : C > 16 ? 10 : 12; }

// The size of a chunk's parameters: see fused_feedforward_parameters.h.
constexpr int chunk_words(int size, int C) { return 24 * (size * C + chunk_channels(size)); }

// For C of 16, 32, 48 and 64, and in 16 bits of 96 and 128.
struct FusedFeedforwardKernel {
  void (*pack)(const FusedFeedforward&, cudaStream_t);
  void (*run)(const FusedFeedforward&, cudaStream_t);
};
struct FusedProjectionKernel {  // without a gate
  void (*run)(const FusedFeedforward&, cudaStream_t);
  void (*run_attention)(const FusedFeedforward&, cudaStream_t);  // null for float32
};

extern const FusedFeedforwardKernel fused_feedforward_float, fused_feedforward_bfloat16,
    fused_feedforward_half;
extern const FusedProjectionKernel fused_projection_float, fused_projection_bfloat16,
    fused_projection_half;

}  // namespace moce
