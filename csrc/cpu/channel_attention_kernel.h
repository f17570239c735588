// Attention over channels on plain memory: what channel_attention_kernel.cpp, compiled once for each
// instruction set, offers to channel_attention.cpp.
#pragma once

#include "moce/types.h"

namespace moce {

struct ChannelAttention {
  Type type;                // of the activations
  int64_t B, H, W;          // H is 1 and W all pixels of an image where memory allows
  int64_t C, heads, outer;  // channels of q, k, v; of out
  Strided q, k, v;
  const float *temperature, *weight, *bias;  // (heads,), (outer, C), (outer,) or null
  float* gram;     // (B, heads, c, c): q k^T of each head
  float* squares;  // (B, 2, C): sums of q^2 and of k^2
  float* weight_t;  // (C, outer up to whole vectors), made by `transpose_weight`
  float* parts;     // (B, num_parts, part size): sums over parts of an image's pixels
  int64_t num_parts;
  float* matrices;  // (B, matrices size): what the second pass multiplies with

  Strided residual, out;  // forward; residual.data may be null, out may be v

  Strided grad, dq, dk, dv;                           // backward
  float *dweights, *dtemperatures;                    // (B, C, outer up ...), (B, heads)
  float *dweight, *dbias, *dtemperature;
};

struct ChannelAttentionKernel {
  int64_t (*blocks)(const ChannelAttention&);  // of pixels, of all images
  // Floats of weight_t and one of dweights, of one of `parts` and of `matrices`, of a thread's
  // scratch.
  int64_t (*weight_size)(const ChannelAttention&);
  int64_t (*part_size)(const ChannelAttention&, bool backward);
  int64_t (*matrices_size)(const ChannelAttention&, bool backward);
  int64_t (*scratch)(const ChannelAttention&);

  void (*transpose_weight)(const ChannelAttention&);
  // Parts begin <= i < end of all images; heads of all images, backward images; blocks.
  void (*collect)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  void (*mix)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  void (*apply)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  void (*backward_collect)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  void (*backward_mix)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  void (*backward_apply)(const ChannelAttention&, int64_t begin, int64_t end, float* scratch);
  // The gradients of weight, bias and temperature from those of the images.
  void (*reduce)(const ChannelAttention&);
};

}  // namespace moce
