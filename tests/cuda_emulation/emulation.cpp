#include "cuda_runtime.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <ucontext.h>

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStack = 256 * 1024;
constexpr size_t kGuard = 1024;  // floats beyond the shared memory, which must stay as they are
constexpr float kCanary = 12345.f;

enum class State { kReady, kAtBlockBarrier, kAtPartBarrier, kAtWarpBarrier, kDone };

struct Thread {
  jmp_buf at;  // where it goes on, once it has begun
  bool begun;
  std::unique_ptr<char[]> stack;
  State state;
  unsigned barrier, part;  // the named barrier it waits at, and how many threads share it
  float value;
  bool flag;
  const void* given;
  int barriers;  // of the block and of the warp, that it has come to
};

std::vector<Thread> threads;
std::vector<float> shared;
jmp_buf scheduler;
const std::function<void()>* body;
int left_out;  // the barrier at which no thread waits, from 1: for tests of the tests

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "emulated kernel: %s\n", why);
  std::abort();
}

// swapcontext would do, but asks the system for the signal mask each time.
void wait(State barrier) {
  Thread& me = threads[threadIdx.x];
  me.state = barrier;
  if (_setjmp(me.at) == 0) _longjmp(scheduler, 1);
}

void run_thread() {
  (*body)();
  threads[threadIdx.x].state = State::kDone;
  _longjmp(scheduler, 1);
}

// Until it waits or is done.
void run(Thread& thread) {
  if (_setjmp(scheduler) != 0) return;
  if (thread.begun) _longjmp(thread.at, 1);
  thread.begun = true;
  ucontext_t start;
  getcontext(&start);
  start.uc_stack = {thread.stack.get(), 0, kStack};
  start.uc_link = nullptr;
  makecontext(&start, run_thread, 0);
  setcontext(&start);
}

// Whether threads wait at this barrier, and all of them that are not done.
bool all_wait(size_t from, size_t to, State barrier) {
  bool any = false;
  for (size_t i = from; i < to; i++) {
    if (threads[i].state == State::kDone) continue;
    if (threads[i].state != barrier) return false;
    any = true;
  }
  return any;
}

void go(size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    if (threads[i].state != State::kDone) threads[i].state = State::kReady;
}

// Lets a warp go on that waits for none but its own threads; false if it does not.
bool release_warp(size_t warp) {
  if (!all_wait(warp, warp + 32, State::kAtWarpBarrier)) return false;
  go(warp, warp + 32);
  return true;
}

// The same of parts of the block, and of all of it.
bool release() {
  bool any = false;
  for (size_t first = 0; first < threads.size(); first++) {
    if (threads[first].state != State::kAtPartBarrier || first % threads[first].part) continue;
    const unsigned part = threads[first].part, barrier = threads[first].barrier;
    if (first + part > threads.size() || !all_wait(first, first + part, State::kAtPartBarrier))
      continue;
    for (size_t i = 0; i < threads.size(); i++) {
      const bool inside = first <= i && i < first + part;
      const bool same = threads[i].part == part && threads[i].barrier == barrier;
      if (threads[i].state == State::kAtPartBarrier && inside != same)
        fail("a barrier's threads are not those of one part");
    }
    go(first, first + part);
    any = true;
  }
  if (all_wait(0, threads.size(), State::kAtBlockBarrier)) {
    go(0, threads.size());
    any = true;
  }
  return any;
}

void run_block(bool reversed) {
  for (Thread& t : threads) {
    t.state = State::kReady;
    t.barriers = 0;
    t.begun = false;
  }
  do {  // a warp goes as far as it can before the next one begins
    for (size_t i = 0; i < threads.size(); i += 32) {
      const size_t warp = reversed ? threads.size() - 32 - i : i;
      do {
        for (size_t lane = 0; lane < 32; lane++) {
          const size_t j = warp + (reversed ? 31 - lane : lane);
          if (threads[j].state != State::kReady) continue;
          threadIdx.x = static_cast<unsigned>(j);
          run(threads[j]);
        }
      } while (release_warp(warp));
    }
  } while (release());
  for (const Thread& t : threads)
    if (t.state != State::kDone) fail("threads wait at different barriers for ever");
}

}  // namespace

static void wait_at_barrier(State barrier) {
  if (++threads[threadIdx.x].barriers != left_out) wait(barrier);
}
void __syncthreads() { wait_at_barrier(State::kAtBlockBarrier); }
void __syncwarp() { wait_at_barrier(State::kAtWarpBarrier); }
void __barrier_sync_count(unsigned barrier, unsigned count) {
  threads[threadIdx.x].barrier = barrier;
  threads[threadIdx.x].part = count;
  wait(State::kAtPartBarrier);
}

float __shfl_xor_sync(unsigned, float value, int bit) {
  threads[threadIdx.x].value = value;
  wait(State::kAtWarpBarrier);
  const float other = threads[threadIdx.x ^ bit].value;
  wait(State::kAtWarpBarrier);
  return other;
}

unsigned __ballot_sync(unsigned, bool flag) {
  threads[threadIdx.x].flag = flag;
  wait(State::kAtWarpBarrier);
  unsigned flags = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    flags |= unsigned{threads[threadIdx.x / 32 * 32 + lane].flag} << lane;
  wait(State::kAtWarpBarrier);
  return flags;
}

void emulated_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("an address is not aligned");
}

void emulated_gather(const void* mine, size_t bytes, void* all) {
  threads[threadIdx.x].given = mine;
  wait(State::kAtWarpBarrier);
  for (unsigned lane = 0; lane < 32; lane++)
    std::memcpy(static_cast<char*>(all) + lane * bytes,
                threads[threadIdx.x / 32 * 32 + lane].given, bytes);
  wait(State::kAtWarpBarrier);
}

float* emulated_shared() { return shared.data(); }

static int shared_for_block() {
  const char* bytes = std::getenv("MOCE_EMULATED_SHARED");
  return bytes ? std::atoi(bytes) : 228 * 1024;
}

void emulate(unsigned blocks, unsigned count, size_t shared_bytes,
             const std::function<void()>& kernel) {
  // What a GPU from 8.0 on does not launch.
  if (blocks == 0 || blocks > INT32_MAX) fail("a grid must have a block, and 2^31 - 1 at most");
  if (count == 0 || count > 1024) fail("a block must have a thread, and 1024 at most");
  if (shared_bytes > static_cast<size_t>(std::max(99 * 1024, shared_for_block())))
    fail("a block must have no more shared memory than there is on every GPU");
  if (count % 32) fail("a block must have whole warps");
  const size_t floats = (shared_bytes + 3) / 4;
  blockDim = {count, 1, 1};
  gridDim = {blocks, 1, 1};
  body = &kernel;
  const char* barrier = std::getenv("MOCE_EMULATED_WITHOUT_BARRIER");
  left_out = barrier ? std::atoi(barrier) : 0;
  threads.resize(count);
  for (Thread& t : threads)
    if (!t.stack) t.stack.reset(new char[kStack]);
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    shared.assign(floats, std::numeric_limits<float>::quiet_NaN());
    shared.resize(floats + kGuard, kCanary);
    run_block(blockIdx.x % 2);
    for (size_t i = floats; i < shared.size(); i++)
      if (shared[i] != kCanary) fail("it wrote beyond its shared memory");
  }
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  if (which == cudaDevAttrMultiProcessorCount) {
    *value = 2;
    return cudaSuccess;
  }
  *value = shared_for_block();
  return cudaSuccess;
}

// PyTorch's, of which a CPU-only one has the first not and the second not for CPU tensors.
extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
}

// The package asks a library for CPU tensors for its instruction set.
static std::string cpu_capability_name() { return "emulated"; }

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability_name));
}
