// Memory of what is large, apart from the C library's heap: there, activations of one size leave
// holes that those of another do not fit, and the network takes nearly twice the memory it uses.
#pragma once

#include <cstddef>

namespace moce {

// Bytes from which an output or a thread's scratch is a block.
constexpr size_t kSmallestBlock = size_t{1} << 20;

// Page-aligned, uninitialised; null where there is no memory. Freed blocks are kept for others of
// their size, so that their pages need not come from the system again; but the blocks in use
// and those kept never take over 8 MiB more than were in use at once, and while none is in use,
// those above 32 MiB are the system's, as the C library does with its own.
void* take_block(size_t bytes);
void give_block(void* block, size_t bytes);

}  // namespace moce
