// The part of PyTorch's stable ABI that csrc/cpu uses, on tensors that are nothing but memory: with it
// the operators run where there is no PyTorch. `empty` gives memory of NaN, and every tensor stands
// between two guards.
#include "stable_abi.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

namespace aarch64 {

int64_t num_threads = 1;
static bool all_held = true;
static std::set<const Memory*> memories;

std::map<std::string, Operator>& operators() {
  static std::map<std::string, Operator> all;
  return all;
}

static constexpr size_t kGuard = 64;  // bytes; of -1, which is NaN in every dtype
static constexpr unsigned char kNan = 0xff;

Memory::Memory(size_t bytes) : bytes(bytes), data(bytes + 2 * kGuard, kNan) {
  memories.insert(this);
}
Memory::~Memory() {
  all_held = all_held && guards_hold();
  memories.erase(this);
}
bool Memory::guards_hold() const {
  const auto whole = [](unsigned char byte) { return byte == kNan; };
  return std::all_of(data.begin(), data.begin() + kGuard, whole) &&
         std::all_of(data.end() - kGuard, data.end(), whole);
}
bool guards_hold() {
  return all_held && std::all_of(memories.begin(), memories.end(),
                                 [](const Memory* m) { return m->guards_hold(); });
}
void* Memory::begin() { return data.data() + kGuard; }

size_t size_of(int32_t dtype) {
  switch (ScalarType(dtype)) {
    case ScalarType::Half:
    case ScalarType::BFloat16: return 2;
    case ScalarType::Float: return 4;
    case ScalarType::Long: return 8;
    default: throw std::runtime_error("a dtype that no operator has");
  }
}

int64_t Array::numel() const {
  int64_t n = 1;
  for (const int64_t s : size) n *= s;
  return n;
}
int64_t Array::extent() const {
  int64_t n = 1;
  for (size_t i = 0; i < size.size(); i++) n += (size[i] - 1) * stride[i];
  return numel() == 0 ? 0 : n;
}

}  // namespace aarch64

using namespace aarch64;

using List = std::vector<StableIValue>;

static std::shared_ptr<Array>& array(AtenTensorHandle t) {
  return *reinterpret_cast<std::shared_ptr<Array>*>(t);
}
AtenTensorHandle aarch64::handle(std::shared_ptr<Array> a) {
  return reinterpret_cast<AtenTensorHandle>(new std::shared_ptr<Array>(std::move(a)));
}
static List& list(StableListHandle l) { return *reinterpret_cast<List*>(l); }

#define CONSTANT(name, value) \
  int32_t name() { return int32_t(value); }
#define DTYPE(name, Type) CONSTANT(aoti_torch_dtype_##name, ScalarType::Type)
#define GET(name, T, expression)                       \
  AOTITorchError name(AtenTensorHandle t, T* result) { \
    Array& a = *array(t);                              \
    *result = expression;                              \
    return 0;                                          \
  }

extern "C" {
DTYPE(uint8, Byte)
DTYPE(int8, Char)
DTYPE(int16, Short)
DTYPE(int32, Int)
DTYPE(int64, Long)
DTYPE(float16, Half)
DTYPE(float32, Float)
DTYPE(float64, Double)
DTYPE(complex32, ComplexHalf)
DTYPE(complex64, ComplexFloat)
DTYPE(complex128, ComplexDouble)
DTYPE(bool, Bool)
DTYPE(bfloat16, BFloat16)
DTYPE(float8_e5m2, Float8_e5m2)
DTYPE(float8_e4m3fn, Float8_e4m3fn)
DTYPE(float8_e5m2fnuz, Float8_e5m2fnuz)
DTYPE(float8_e4m3fnuz, Float8_e4m3fnuz)
DTYPE(uint16, UInt16)
DTYPE(uint32, UInt32)
DTYPE(uint64, UInt64)
CONSTANT(torch_dtype_float8_e8m0fnu, ScalarType::Float8_e8m0fnu)
CONSTANT(torch_dtype_float4_e2m1fn_x2, ScalarType::Float4_e2m1fn_x2)
CONSTANT(aoti_torch_device_type_cpu, 0)
CONSTANT(aoti_torch_device_type_cuda, 1)
CONSTANT(aoti_torch_device_type_meta, 2)
CONSTANT(aoti_torch_device_type_xpu, 3)
CONSTANT(aoti_torch_device_type_mps, 4)
CONSTANT(aoti_torch_device_type_privateuse1, 5)
CONSTANT(aoti_torch_layout_strided, 0)
CONSTANT(aoti_torch_layout_sparse_coo, 1)
CONSTANT(aoti_torch_layout_sparse_csr, 2)
CONSTANT(aoti_torch_layout_sparse_csc, 3)
CONSTANT(aoti_torch_layout_sparse_bsr, 4)
CONSTANT(aoti_torch_layout_sparse_bsc, 5)
CONSTANT(aoti_torch_layout__mkldnn, 6)
CONSTANT(aoti_torch_layout_jagged, 7)
CONSTANT(aoti_torch_memory_format_contiguous_format, 0)
CONSTANT(aoti_torch_memory_format_preserve_format, 1)
CONSTANT(aoti_torch_memory_format_channels_last, 2)
CONSTANT(aoti_torch_memory_format_channels_last_3d, 3)

uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }
size_t aoti_torch_dtype_element_size(int32_t dtype) { return size_of(dtype); }

GET(aoti_torch_get_data_ptr, void*, a.data)
GET(torch_get_mutable_data_ptr, void*, a.data)
GET(torch_get_const_data_ptr, const void*, a.data)
GET(aoti_torch_get_dim, int64_t, a.size.size())
GET(aoti_torch_get_numel, int64_t, a.numel())
GET(aoti_torch_get_sizes, int64_t*, a.size.data())
GET(aoti_torch_get_dtype, int32_t, a.dtype)
GET(aoti_torch_get_device_type, int32_t, ((void)a, 0))
GET(aoti_torch_get_device_index, int32_t, ((void)a, -1))
AOTITorchError aoti_torch_get_size(AtenTensorHandle t, int64_t d, int64_t* result) {
  *result = array(t)->size.at(d);
  return 0;
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle t, int64_t d, int64_t* result) {
  *result = array(t)->stride.at(d);
  return 0;
}
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle t, bool* result) {
  int64_t expected = 1;
  *result = true;
  for (size_t i = array(t)->size.size(); i-- > 0; expected *= array(t)->size[i])
    if (array(t)->size[i] != 1) *result = *result && array(t)->stride[i] == expected;
  return 0;
}

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle t, AtenTensorHandle* result) {
  *result = handle(array(t));
  return 0;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle t) {
  delete &array(t);
  return 0;
}

AOTITorchError torch_from_blob(void* data, int64_t dim, const int64_t* size, const int64_t* stride,
                               int64_t, int32_t dtype, int32_t, int32_t, AtenTensorHandle* result,
                               int32_t, const uint8_t*, int64_t, void (*deleter)(void*, void*),
                               void* context) {
  auto* a = new Array{dtype, {size, size + dim}, {stride, stride + dim}, data, nullptr};
  *result = handle(std::shared_ptr<Array>(a, [=](Array* a) {
    deleter(a->data, context);
    delete a;
  }));
  return 0;
}

AOTITorchError torch_new_list_reserve_size(size_t, StableListHandle* result) {
  *result = reinterpret_cast<StableListHandle>(new List);
  return 0;
}
AOTITorchError torch_list_size(StableListHandle l, size_t* size) {
  *size = list(l).size();
  return 0;
}
AOTITorchError torch_list_get_item(StableListHandle l, size_t i, StableIValue* item) {
  *item = list(l).at(i);
  return 0;
}
AOTITorchError torch_list_push_back(StableListHandle l, StableIValue item) {
  list(l).push_back(item);
  return 0;
}
AOTITorchError torch_delete_list(StableListHandle l) {
  delete &list(l);
  return 0;
}
AOTITorchError torch_new_string_handle(const char* data, size_t length, StringHandle* result) {
  *result = reinterpret_cast<StringHandle>(new std::string(data, length));
  return 0;
}

// aten::empty, the only one that is called.
AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  if (std::strcmp(name, "aten::empty") != 0) throw std::runtime_error(name);
  const auto optional = [&](int i, int32_t absent) {
    const auto* value = torch::stable::detail::to<StableIValue*>(stack[i]);
    return value ? torch::stable::detail::to<int32_t>(*value) : absent;
  };
  auto a = std::make_shared<Array>();
  a->dtype = optional(1, -1);
  const auto& sizes = list(torch::stable::detail::to<StableListHandle>(stack[0]));
  a->size.assign(sizes.begin(), sizes.end());
  a->stride.resize(sizes.size());
  int64_t stride = 1;
  const auto next = [&](int i) {
    a->stride[i] = stride;
    stride *= std::max<int64_t>(a->size[i], 1);
  };
  if (optional(5, 0) == aoti_torch_memory_format_channels_last())
    for (const int i : {1, 3, 2, 0}) next(i);
  else
    for (int i = int(sizes.size()); i-- > 0;) next(i);
  a->memory = std::make_shared<Memory>(a->extent() * size_of(a->dtype));
  a->data = a->memory->begin();
  stack[0] = torch::stable::detail::from(handle(a));
  return 0;
}

// The pieces that PyTorch would give to num_threads threads, one after the other.
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc f,
                                  void* context) {
  if (begin >= end) return 0;
  const int64_t most = (end - begin + grain - 1) / std::max<int64_t>(grain, 1);
  const int64_t pieces = std::min(num_threads, most), size = (end - begin + pieces - 1) / pieces;
  for (int64_t i = begin; i < end; i += size) f(i, std::min(i + size, end), context);
  return 0;
}

AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                            TorchLibraryHandle* result) {
  *result = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return 0; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Operator f, uint64_t) {
  operators()[name] = f;
  return 0;
}
}
