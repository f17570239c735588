// In place of CUDA's runtime library and of what PyTorch adds for CUDA, so that the host code of
// csrc/cuda runs without a GPU: launches are told to moce_launched and not carried out.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define API __attribute__((visibility("default")))

typedef struct {
  unsigned x, y, z;
} Size;

// Called with a kernel's mangled name, its grid, the threads of a block, the bytes of dynamic
// shared memory, and where its arguments lie.
typedef void (*Launched)(const char* name, const unsigned* grid, unsigned threads, size_t shared,
                         void** arguments);
API Launched moce_launched = NULL;

// What the kernels ask about the GPU: an H200.
enum { kMultiprocessors = 16, kSharedForAll = 81, kSharedForBlock = 97 };
API int cudaDeviceGetAttribute(int* value, int which, int device) {
  *value = which == kMultiprocessors  ? 132
           : which == kSharedForAll   ? 228 * 1024
           : which == kSharedForBlock ? 227 * 1024
                                      : -1;
  return *value < 0;
}
API int cudaFuncSetAttribute(const void* f, int which, int value) { return 0; }
API int cudaMemsetAsync(void* p, int value, size_t bytes, void* stream) { return 0; }
static int failed;
API int cudaGetLastError(void) { return failed; }
API const char* cudaGetErrorString(int error) {
  return "the stand-in for CUDA's runtime library does not know this kernel or attribute";
}

// A kernel is known by a function of the host's.
static struct Kernel {
  const void* function;
  const char* name;
  struct Kernel* next;
}* kernels;

API void** __cudaRegisterFatBinary(void* binary) { return binary; }
API void __cudaRegisterFatBinaryEnd(void** handle) {}
API void __cudaUnregisterFatBinary(void** handle) {}
API void __cudaRegisterVar(void** handle, char* host, char* address, const char* name, int ext,
                           size_t size, int constant, int global) {}
API void __cudaRegisterFunction(void** handle, const char* function, char* device, const char* name,
                                int limit, void* tid, void* bid, void* block, void* grid,
                                int* warp) {
  struct Kernel* kernel = malloc(sizeof *kernel);
  *kernel = (struct Kernel){function, name, kernels};
  kernels = kernel;
}

// A launch: its sizes come first, then the function that hands the arguments over.
static struct {
  Size grid, block;
  size_t shared;
} next;

API unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared, void* stream) {
  next.grid = grid;
  next.block = block;
  next.shared = shared;
  return 0;
}
API int __cudaPopCallConfiguration(Size* grid, Size* block, size_t* shared, void* stream) {
  *grid = next.grid;
  *block = next.block;
  *shared = next.shared;
  *(void**)stream = NULL;
  return 0;
}
API int cudaLaunchKernel(const void* function, Size grid, Size block, void** arguments,
                         size_t shared, void* stream) {
  const struct Kernel* k = kernels;
  while (k && k->function != function) k = k->next;
  failed = !k || !moce_launched;
  if (!failed) moce_launched(k->name, &grid.x, block.x * block.y * block.z, shared, arguments);
  return failed;
}
// The same since CUDA 13.
API int __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return 0;
}
API int __cudaLaunchKernel(const void* kernel, Size grid, Size block, void** arguments,
                           size_t shared, void* stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

// PyTorch's, of which a CPU-only one has the first not and the second not for CPU tensors.
API int aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  *stream = NULL;
  return 0;
}
API int aoti_torch_create_device_guard(int32_t device, void** guard) {
  *guard = NULL;
  return 0;
}
API int aoti_torch_delete_device_guard(void* guard) { return 0; }
