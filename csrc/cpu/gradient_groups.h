// How an operator with a ProjectionGradient computes it: on all threads, with sums that do not depend
// on their number.
#pragma once

#include <algorithm>

#include "projection_gradient.h"
#include "tensor.h"

namespace moce {

// Rows that pay for sums of their own, and how many groups there are at most.
constexpr int64_t kGroupRows = 16, kMostGroups = 16;

template <class A>
void compute_gradients(A& a, const GradientKernel<A>& kernel) {
  const GradientSizes size = kernel.sizes(a);
  const int64_t groups = std::clamp<int64_t>(size.rows / kGroupRows,
                                             std::min<int64_t>(2, size.rows), kMostGroups);
  const Scratch packed = allocate_scratch(size.packed), sums = allocate_scratch(groups * size.sums);
  a.gradient.packed = packed.get();
  a.gradient.sums = sums.get();
  a.gradient.groups = groups;
  a.gradient.size = size.sums;
  a.gradient.rows = size.rows;
  torch::stable::parallel_for(
      0, size.vectors, kPackedVectors,
      [&](int64_t begin, int64_t end) { kernel.pack(a, begin, end); });
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    std::fill_n(sums.get() + begin * size.sums, (end - begin) * size.sums, 0.f);
    kernel.backward(a, size.rows * begin / groups, size.rows * end / groups,
                    allocate_scratch(size.scratch).get());
  });
  torch::stable::parallel_for(0, size.vectors, kPackedVectors,
                              [&](int64_t begin, int64_t end) { kernel.reduce(a, begin, end); });
}

}  // namespace moce
