// Tensors that are nothing but memory, and the operators that csrc/cpu registers.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace aarch64 {

using torch::headeronly::ScalarType;
using Operator = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);

// By name.
std::map<std::string, Operator>& operators();

extern int64_t num_threads;  // among which parallel_for divides the work

struct Memory {
  explicit Memory(size_t bytes);
  ~Memory();
  void* begin();
  bool guards_hold() const;

  size_t bytes;

 private:
  std::vector<unsigned char> data;
};

// Whether nothing has been written beside any memory that there is or was.
bool guards_hold();

struct Array {
  int32_t dtype;
  std::vector<int64_t> size, stride;
  void* data;
  std::shared_ptr<Memory> memory;  // null for an array in memory of the operator's

  int64_t numel() const;
  int64_t extent() const;  // elements from the first to the last
};

size_t size_of(int32_t dtype);

// Owned by whoever gets it.
AtenTensorHandle handle(std::shared_ptr<Array> array);

}  // namespace aarch64
