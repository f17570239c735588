#include "sum_rows.h"

namespace moce {

constexpr int kRows = 32;  // that are added up side by side, of 32 columns

static __global__ void __launch_bounds__(32 * kRows)
    sum_rows_kernel(const float* rows, int64_t count, int64_t n, float* first, int64_t split,
                    float* rest) {
  float* part = shared_memory();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  for (int64_t start = blockIdx.x * int64_t{32}; start < n; start += gridDim.x * int64_t{32}) {
    const int64_t i = start + lane;
    float sum = 0;
    if (i < n)
      for (int64_t r = row; r < count; r += kRows) sum += rows[r * n + i];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (row == 0 && i < n) {
      for (int r = 1; r < kRows; r++) sum += part[r * 32 + lane];
      (i < split ? first[i] : rest[i - split]) = sum;
    }
    __syncthreads();
  }
}

void sum_rows(const Tensor& rows, float* first, int64_t split, float* rest, cudaStream_t stream) {
  const int64_t count = rows.size(0), n = rows.size(1);
  launch(sum_rows_kernel, blocks_for((n + 31) / 32), 32 * kRows, 32 * kRows * sizeof(float), stream,
         static_cast<const float*>(rows.const_data_ptr()), count, n, first, split, rest);
}

}  // namespace moce
