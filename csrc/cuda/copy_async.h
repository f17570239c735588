// Copies from global to shared memory that take no registers and do not hold the thread up.
#pragma once

#include <cstring>

#include "device.h"

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

// N bytes, 4, 8 or 16, both ends aligned to as many; zeros if not `present`.
template <int N>
__device__ inline void copy_async(void* to, const void* from, bool present) {
#ifdef MOCE_EMULATED
  emulated_aligned(to, N);
  emulated_aligned(from, N);
  present ? std::memcpy(to, from, N) : std::memset(to, 0, N);
#else
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = present ? N : 0;
  if constexpr (N == 16)  // past the first cache: nothing of it is read twice
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from),
                 "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(N),
                 "r"(bytes)
                 : "memory");
#endif
}

// Waits for all copies of the thread; other threads see them after the next barrier.
__device__ inline void await_copies() {
#ifndef MOCE_EMULATED
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace moce
#endif
