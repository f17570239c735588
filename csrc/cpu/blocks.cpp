#include "blocks.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moce {
namespace {

constexpr size_t kPage = 4096, kLargePage = size_t{1} << 21;
constexpr size_t kLargestIdle = size_t{32} << 20;  // of the blocks kept while none is in use

#if defined(__linux__)
// Large pages where the system has them: those of 4 KiB cost several times what writing them does.
void* from_system(size_t bytes) {
  const size_t more = bytes + kLargePage;
  void* mapped =
      mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  char* block = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(begin) + kLargePage - 1) / kLargePage * kLargePage);
  if (block > begin) munmap(begin, block - begin);
  if (block + bytes < begin + more) munmap(block + bytes, begin + more - (block + bytes));
#if defined(MADV_HUGEPAGE)
  madvise(block, bytes, MADV_HUGEPAGE);  // advice: it may be ignored
#endif
  return block;
}
void to_system(void* block, size_t bytes) { munmap(block, bytes); }
#else
void* from_system(size_t bytes) { return std::aligned_alloc(kPage, bytes); }
void to_system(void* block, size_t) { std::free(block); }
#endif

struct Block {
  void* data;
  size_t bytes;
};

struct Blocks {
  std::mutex mutex;
  size_t used = 0, kept_bytes = 0, limit = 0;  // limit: of both together
  std::vector<Block> kept;                     // the oldest first

  // Gives the oldest back while more than `most` are kept, and whatever is larger than `largest`.
  void let_go(size_t most, size_t largest = SIZE_MAX) {
    std::vector<Block> rest;
    for (const Block& b : kept) {
      if (kept_bytes <= most && b.bytes <= largest) {
        rest.push_back(b);
        continue;
      }
      kept_bytes -= b.bytes;
      to_system(b.data, b.bytes);
    }
    kept = std::move(rest);
  }

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto last = std::find_if(kept.rbegin(), kept.rend(),
                                   [=](const Block& b) { return b.bytes == bytes; });
    void* data = nullptr;
    if (last != kept.rend()) {
      data = last->data;
      kept.erase(std::next(last).base());
      kept_bytes -= bytes;
    } else {
      limit = std::max(limit, used + bytes);
      let_go(limit - used - bytes);
      data = from_system(bytes);
      if (!data) {
        let_go(0);
        data = from_system(bytes);
      }
      if (!data) return nullptr;
    }
    used += bytes;
    return data;
  }

  void give(void* data, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    kept.push_back({data, bytes});
    kept_bytes += bytes;
    used -= bytes;
    if (used == 0) {
      let_go(SIZE_MAX, kLargestIdle);
      limit = kept_bytes;
    }
  }
};

// Never destroyed: tensors may outlive what static objects do.
Blocks& blocks() {
  static Blocks& all = *new Blocks;
  return all;
}

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

void* take_block(size_t bytes) { return blocks().take(whole_pages(bytes)); }
void give_block(void* block, size_t bytes) { blocks().give(block, whole_pages(bytes)); }

}  // namespace moce
