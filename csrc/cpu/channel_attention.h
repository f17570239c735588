// What the operators of attention over channels on CPUs share: all that follows their first pass.
#pragma once

#include "capability.h"
#include "channel_attention_kernel.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(ChannelAttentionKernel, channel_attention)

namespace moce {

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
  const auto run = [&](auto stage, int64_t n) {
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      stage(a, begin, end, allocate_scratch(kernel.scratch(a)).get());
    });
  };
  run(kernel.mix, a.B * a.heads);
  run(kernel.apply, kernel.blocks(a));
}

// Blocks do not end with an image's rows where these follow each other in every tensor.
inline void flatten(ChannelAttention& a) {
  for (const Strided* s : {&a.q, &a.k, &a.v, &a.residual, &a.out, &a.grad, &a.dq, &a.dk, &a.dv})
    if (s->data && a.H > 1 && s->h != a.W * s->w) return;
  a.W *= a.H;
  a.H = 1;
}

}  // namespace moce
