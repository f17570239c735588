// What the operators of attention over channels on CPUs share: all that follows their first pass.
#pragma once

#include "capability.h"
#include "channel_attention_kernel.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(ChannelAttentionKernel, channel_attention)

namespace moce {

// stage(a, begin, end, scratch) for n items on all threads.
template <class Stage>
void run_stage(const ChannelAttention& a, Stage&& stage, int64_t n) {
  const auto& kernel = channel_attention_for_this_cpu();
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    stage(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
  });
}

// `collect` fills a.parts; then the heads' matrices are made and v is multiplied.
template <class Collect>
void attend(ChannelAttention& a, Collect&& collect) {
  const auto& kernel = channel_attention_for_this_cpu();
  const Scratch weight_t = allocate_scratch(kernel.weight_size(a));
  const Scratch parts = allocate_scratch(a.B * a.num_parts * kernel.part_size(a, false));
  const Scratch matrices = allocate_scratch(a.B * kernel.matrices_size(a, false));
  a.weight_t = weight_t.get();
  a.parts = parts.get();
  a.matrices = matrices.get();
  kernel.transpose_weight(a);
  collect();
  run_stage(a, kernel.mix, a.B * a.heads);
  run_stage(a, kernel.apply, kernel.blocks(a));
}

// `collect` fills a.parts with the sums of v grad^T; `apply` multiplies with the matrices that are made
// of them, for the gradients of q, k and v. Those of the parameters are made here.
template <class Collect, class Apply>
void attend_backward(ChannelAttention& a, Collect&& collect, Apply&& apply) {
  const auto& kernel = channel_attention_for_this_cpu();
  const Scratch weight_t = allocate_scratch(kernel.weight_size(a));
  const Scratch parts = allocate_scratch(a.B * a.num_parts * kernel.part_size(a, true));
  const Scratch matrices = allocate_scratch(a.B * kernel.matrices_size(a, true));
  const Scratch dweights = allocate_scratch(a.B * kernel.weight_size(a));
  const Scratch dtemperatures = allocate_scratch(a.B * a.heads);
  a.weight_t = weight_t.get();
  a.parts = parts.get();
  a.matrices = matrices.get();
  a.dweights = dweights.get();
  a.dtemperatures = dtemperatures.get();
  kernel.transpose_weight(a);
  collect();
  run_stage(a, kernel.backward_mix, a.B);
  apply();
  kernel.reduce(a);
}

// Blocks do not end with an image's rows where these follow each other in every tensor.
inline void flatten(ChannelAttention& a) {
  for (const Strided* s : {&a.q, &a.k, &a.v, &a.residual, &a.out, &a.grad, &a.dq, &a.dk, &a.dv})
    if (s->data && a.H > 1 && s->h != a.W * s->w) return;
  a.W *= a.H;
  a.H = 1;
}

}  // namespace moce
