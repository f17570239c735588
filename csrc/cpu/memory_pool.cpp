#include "memory_pool.h"

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

constexpr size_t kPage = 4096, kHugePage = size_t{1} << 21;
constexpr size_t kLargestIdle = size_t{32} << 20;  // of the blocks cached while none is in use
constexpr size_t kSlack = size_t{8} << 20;  // so that a little scratch evicts no large block

#if defined(__linux__)
// Huge pages where the system has them: faulting in pages of 4 KiB costs several times what writing
// them does.
void* map_pages(size_t bytes) {
  const size_t more = bytes + kHugePage;
  void* mapped =
      mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  char* block = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) / kHugePage * kHugePage);
  if (block > begin) munmap(begin, block - begin);
  if (block + bytes < begin + more) munmap(block + bytes, begin + more - (block + bytes));
#if defined(MADV_HUGEPAGE)
  madvise(block, bytes, MADV_HUGEPAGE);  // advice: it may be ignored
#endif
  return block;
}
void unmap_pages(void* block, size_t bytes) { munmap(block, bytes); }
#else
void* map_pages(size_t bytes) { return std::aligned_alloc(kPage, bytes); }
void unmap_pages(void* block, size_t) { std::free(block); }
#endif

struct Block {
  void* data;
  size_t bytes;
};
using Blocks = std::vector<Block>;

// Returns evicted blocks to the system.
void unmap(Blocks& evicted) {
  for (const Block& block : evicted) unmap_pages(block.data, block.bytes);
  evicted.clear();
}

// The mutex guards bookkeeping alone: system calls may take long and are made without it.
class MemoryPool {
 public:
  std::mutex mutex;

  void* allocate(size_t bytes) {
    Blocks evicted;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      in_use_ += bytes;
      if (void* data = take_cached(bytes)) return data;
      peak_ = std::max(peak_, in_use_);
      const size_t all = in_use_ + cached_bytes_, limit = peak_ + kSlack;
      if (all > limit) make_room(all - limit, evicted);
    }
    unmap(evicted);
    void* data = map_pages(bytes);
    if (data) return data;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      make_room(SIZE_MAX, evicted);
    }
    unmap(evicted);
    data = map_pages(bytes);
    if (data) return data;
    const std::lock_guard<std::mutex> lock(mutex);
    in_use_ -= bytes;
    return nullptr;
  }

  void free(void* data, size_t bytes) {
    Blocks evicted;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      cached_.push_back({data, bytes});
      cached_bytes_ += bytes;
      in_use_ -= bytes;
      if (in_use_ == 0) {
        for (auto i = cached_.begin(); i != cached_.end();)
          i = i->bytes > kLargestIdle ? evict(i, evicted) : std::next(i);
        peak_ = std::min(peak_, cached_bytes_);
      }
    }
    unmap(evicted);
  }

 private:
  // The block of this size that was freed last, or null.
  void* take_cached(size_t bytes) {
    const auto last = std::find_if(cached_.rbegin(), cached_.rend(),
                                   [=](const Block& b) { return b.bytes == bytes; });
    if (last == cached_.rend()) return nullptr;
    void* data = last->data;
    cached_bytes_ -= bytes;
    cached_.erase(std::next(last).base());
    return data;
  }

  Blocks::iterator evict(Blocks::iterator which, Blocks& evicted) {
    cached_bytes_ -= which->bytes;
    evicted.push_back(*which);
    return cached_.erase(which);
  }

  // Evicts cached blocks, the least recently used first, until `bytes` are free.
  void make_room(size_t bytes, Blocks& evicted) {
    for (size_t freed = 0; freed < bytes && !cached_.empty();) {
      freed += cached_.front().bytes;
      evict(cached_.begin(), evicted);
    }
  }

  size_t in_use_ = 0, peak_ = 0, cached_bytes_ = 0;  // peak_: of in_use_
  Blocks cached_;                                    // the oldest first
};

MemoryPool& pool();

// A fork copies the mutex as it is: it must not happen while another thread holds it, for the child
// has no thread that would unlock it.
MemoryPool* make_pool() {
  MemoryPool* made = new MemoryPool;
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                 [] { pool().mutex.unlock(); });
#endif
  return made;
}

// Never destroyed: tensors may outlive static objects.
MemoryPool& pool() {
  static MemoryPool& only = *make_pool();
  return only;
}

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

void* pool_allocate(size_t bytes) { return pool().allocate(whole_pages(bytes)); }
void pool_free(void* block, size_t bytes) { pool().free(block, whole_pages(bytes)); }

}  // namespace moce
