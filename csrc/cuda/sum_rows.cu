#include "sum_rows.h"

namespace moce {

// Rows and columns that a block adds up side by side: 32 bytes of a row, for as many blocks as
// columns allow, since threads mostly wait.
constexpr int kRows = 128, kColumns = 8;
constexpr int kThreads = kRows * kColumns, kWarps = kThreads / 32;

// first and rest (n): the sums of the columns of rows (count, n). 4 bytes are read for each addition.
static __global__ void __launch_bounds__(kThreads)
    sum_rows_kernel(const float* rows, int64_t count, int64_t n, float* first, int64_t split,
                    float* rest) {
  float* part = shared_memory();  // (columns, warps)
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  for (int64_t start = blockIdx.x * int64_t{kColumns}; start < n;
       start += gridDim.x * int64_t{kColumns}) {
    float sum = 0;
    if (start + column < n) {
      const float* from = rows + start + column;
#pragma unroll 8
      for (int64_t r = row; r < count; r += kRows) sum += from[r * n];
    }
    sum = sum_lanes(sum, kColumns, 32);
    if (lane < kColumns) part[lane * kWarps + warp] = sum;
    __syncthreads();
    const int64_t i = start + warp;
    if (warp < kColumns) {
      const float all = sum_lanes(part[threadIdx.x], 1, kWarps);
      if (lane == 0 && i < n) (i < split ? first[i] : rest[i - split]) = all;
    }
    __syncthreads();
  }
}

void sum_rows(const Tensor& rows, float* first, int64_t split, float* rest, cudaStream_t stream) {
  const int64_t count = rows.size(0), n = rows.size(1);
  launch(sum_rows_kernel, blocks_for(tiles_of(n, kColumns)), kThreads,
         sizeof(float) * kColumns * kWarps, stream, static_cast<const float*>(rows.const_data_ptr()),
         count, n, first, split, rest);
}

}  // namespace moce
