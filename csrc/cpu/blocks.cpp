#include "blocks.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
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

void to_system(std::vector<Block>& gone) {
  for (const Block& block : gone) to_system(block.data, block.bytes);
  gone.clear();
}

// The mutex guards bookkeeping alone: calls to the system may take long, and are made without it.
struct Blocks {
  std::mutex mutex;
  size_t used = 0, most_used = 0, kept_bytes = 0;
  std::vector<Block> kept;  // the oldest first

  std::vector<Block>::iterator let_go(std::vector<Block>::iterator which,
                                      std::vector<Block>& gone) {
    kept_bytes -= which->bytes;
    gone.push_back(*which);
    return kept.erase(which);
  }

  // Lets go of kept blocks until `bytes` are free: the smallest that suffices, or else the largest.
  void make_room(size_t bytes, std::vector<Block>& gone) {
    for (size_t freed = 0; freed < bytes && !kept.empty();) {
      auto best = kept.begin();
      for (auto i = kept.begin(); i != kept.end(); i++) {
        const bool suffices = i->bytes >= bytes - freed, did = best->bytes >= bytes - freed;
        if (suffices != did ? suffices : suffices ? i->bytes < best->bytes : i->bytes > best->bytes)
          best = i;
      }
      freed += best->bytes;
      let_go(best, gone);
    }
  }

  void* take(size_t bytes) {
    std::vector<Block> gone;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      used += bytes;
      const auto last = std::find_if(kept.rbegin(), kept.rend(),
                                     [=](const Block& b) { return b.bytes == bytes; });
      if (last != kept.rend()) {
        void* data = last->data;
        kept_bytes -= bytes;
        kept.erase(std::next(last).base());
        return data;
      }
      most_used = std::max(most_used, used);
      const size_t all = used + kept_bytes, limit = most_used + kSlack;
      if (all > limit) make_room(all - limit, gone);
    }
    to_system(gone);
    void* data = from_system(bytes);
    if (data) return data;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      make_room(SIZE_MAX, gone);
    }
    to_system(gone);
    data = from_system(bytes);
    if (data) return data;
    const std::lock_guard<std::mutex> lock(mutex);
    used -= bytes;
    return nullptr;
  }

  void give(void* data, size_t bytes) {
    std::vector<Block> gone;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      kept.push_back({data, bytes});
      kept_bytes += bytes;
      used -= bytes;
      if (used == 0) {
        for (auto i = kept.begin(); i != kept.end();)
          i = i->bytes > kLargestIdle ? let_go(i, gone) : std::next(i);
        most_used = std::min(most_used, kept_bytes);
      }
    }
    to_system(gone);
  }
};

Blocks& blocks();

// A fork copies the mutex as it is: it must not happen while another thread holds it, for the child
// has no thread that would unlock it.
Blocks* make_blocks() {
  Blocks* all = new Blocks;
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { blocks().mutex.lock(); }, [] { blocks().mutex.unlock(); },
                 [] { blocks().mutex.unlock(); });
#endif
  return all;
}

// Never destroyed: tensors may outlive what static objects do.
Blocks& blocks() {
  static Blocks& all = *make_blocks();
  return all;
}

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

void* take_block(size_t bytes) { return blocks().take(whole_pages(bytes)); }
void give_block(void* block, size_t bytes) { blocks().give(block, whole_pages(bytes)); }

}  // namespace moce
