// Memory for large outputs and scratch, apart from the C library's heap: there, activations of one
// size leave holes that those of another size do not fit, and the network takes nearly twice the
// memory it uses.
#pragma once

#include <cstddef>

namespace moce {

// Bytes from which an output comes from the pool; for scratch see tensor.h.
constexpr size_t kPoolThreshold = size_t{1} << 20;

// Page-aligned and uninitialised; null if there is no memory. The pool caches freed blocks and
// reuses each for an allocation of exactly its size, so that its pages need not come from the system
// again. Blocks in use and cached ones together never exceed the peak in use by more than 8 MiB: the
// least recently used go first.
// When the last block in use is freed, cached blocks above 32 MiB go back to the system, which is
// also the C library's limit.
void* pool_allocate(size_t bytes);
void pool_free(void* block, size_t bytes);

}  // namespace moce
