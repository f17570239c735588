#include "blocks.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moce {
namespace {

constexpr size_t kPage = 4096, kLargePage = size_t{1} << 21;
constexpr size_t kLargestIdle = size_t{32} << 20;  // of the blocks kept while none is in use
constexpr size_t kSlack = size_t{8} << 20;  // a little scratch pushes no large block out

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
  size_t used = 0, most_used = 0, kept_bytes = 0;
  std::vector<Block> kept;  // the oldest first

  std::vector<Block>::iterator let_go(std::vector<Block>::iterator which) {
    kept_bytes -= which->bytes;
    to_system(which->data, which->bytes);
    return kept.erase(which);
  }

  // Lets go of kept blocks until `bytes` are free: the smallest that suffices, or else the largest.
  void make_room(size_t bytes) {
    for (size_t freed = 0; freed < bytes && !kept.empty();) {
      auto best = kept.begin();
      for (auto i = kept.begin(); i != kept.end(); i++) {
        const bool suffices = i->bytes >= bytes - freed, did = best->bytes >= bytes - freed;
        if (suffices != did ? suffices : suffices ? i->bytes < best->bytes : i->bytes > best->bytes)
          best = i;
      }
      freed += best->bytes;
      let_go(best);
    }
  }

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto last = std::find_if(kept.rbegin(), kept.rend(),
                                   [=](const Block& b) { return b.bytes == bytes; });
    void* data = nullptr;
    if (last != kept.rend()) {
      data = last->data;
      kept_bytes -= bytes;
      kept.erase(std::next(last).base());
    } else {
      most_used = std::max(most_used, used + bytes);
      const size_t all = used + kept_bytes + bytes, limit = most_used + kSlack;
      if (all > limit) make_room(all - limit);
      data = from_system(bytes);
      if (!data) {
        make_room(SIZE_MAX);
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
    if (used > 0) return;
    for (auto i = kept.begin(); i != kept.end();)
      i = i->bytes > kLargestIdle ? let_go(i) : std::next(i);
    most_used = std::min(most_used, kept_bytes);
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
