// The first pass of MDTA on plain memory: what transposed_attention_kernel.cpp, compiled once for
// each instruction set, offers to transposed_attention.cpp. The second is channel_attention's.
#pragma once

#include "channel_attention_kernel.h"
#include "projection_gradient.h"

namespace moce {

struct TransposedAttention {
  Type type;               // of the activations
  int64_t B, H, W, inner;  // inner: channels of x
  int64_t C, heads;        // channels of q, of k and of v
  bool norm;
  float eps;
  Strided x, v;                             // v is written
  const float *weight, *bias;               // (3C, inner), (3C,) or null
  const float *depthwise, *depthwise_bias;  // (3C, 3, 3), (3C,) or null
  float* packed;                            // the weights as the kernel reads them, by `pack`
  float* parts;       // (B, num_parts, part size of ChannelAttention): q k^T and squares
  int64_t num_parts;  // of an image's rows

  Strided grad;  // backward
  const ChannelAttention* attention;  // with the matrices of the gradients
  bool add_grad;                      // dx is the residual's gradient, too
  float* packed_values;               // the weights of v alone
  ProjectionGradient gradient;
};

struct TransposedAttentionKernel {
  int64_t (*packed_size)(const TransposedAttention&);
  int64_t (*rows)(const TransposedAttention&);     // of all strips of an image
  int64_t (*scratch)(const TransposedAttention&);  // floats, 64-byte aligned, for one thread
  // Vectors of channels begin <= i < end.
  int64_t (*vectors)(const TransposedAttention&);
  void (*pack)(const TransposedAttention&, int64_t begin, int64_t end);
  // Parts begin <= i < end of all images.
  void (*collect)(const TransposedAttention&, int64_t begin, int64_t end, float* scratch);

  // The same for the gradients: what collect_values reads, and v grad^T and grad to the parts.
  int64_t (*values_size)(const TransposedAttention&);
  void (*pack_values)(const TransposedAttention&);
  void (*collect_values)(const TransposedAttention&, int64_t begin, int64_t end, float* scratch);
  GradientKernel<TransposedAttention> gradient;
};

}  // namespace moce
