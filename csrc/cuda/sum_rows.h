// Sums of what blocks left in float32 rows, in a fixed order.
#pragma once

#include "device.h"

namespace moce {

// rows: (count, n). The sums of the first `split` columns go to `first`, those of the rest to `rest`.
void sum_rows(const Tensor& rows, float* first, int64_t split, float* rest, cudaStream_t stream);

}  // namespace moce
