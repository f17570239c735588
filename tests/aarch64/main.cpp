// Runs the operators of csrc/cpu: a call on standard input, its results on standard output, until the
// input ends. tests/aarch64/plugin.py is the other side.
//
//   call:    name, number of threads, number of arguments, arguments, number of results
//   answer:  1 and the results, or 0 and a message
//   value:   a letter that says what it is, then that; everything is as memory has it, strings after
//            their length
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "stable_abi.h"

using namespace aarch64;
namespace abi = torch::stable::detail;

static void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(0);
}
template <class T>
static T read() {
  T x;
  read(&x, sizeof x);
  return x;
}
static void write(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }
template <class T>
static void write(T x) {
  write(&x, sizeof x);
}

static std::string read_string() {
  std::string s(read<int64_t>(), ' ');
  read(s.data(), s.size());
  return s;
}
static void write_string(const std::string& s) {
  write(int64_t(s.size()));
  write(s.data(), s.size());
}

static std::vector<int64_t> read_integers(int64_t n) {
  std::vector<int64_t> x(n);
  read(x.data(), n * sizeof(int64_t));
  return x;
}

static AtenTensorHandle read_tensor() {
  auto a = std::make_shared<Array>();
  a->dtype = int32_t(read<int64_t>());
  const int64_t dim = read<int64_t>();
  a->size = read_integers(dim);
  a->stride = read_integers(dim);
  a->memory = std::make_shared<Memory>(a->extent() * size_of(a->dtype));
  a->data = a->memory->begin();
  read(a->data, a->memory->bytes);
  return handle(a);
}

static void write_tensor(AtenTensorHandle t) {
  const auto* owner = reinterpret_cast<std::shared_ptr<Array>*>(t);
  const Array& a = **owner;
  write(int64_t(a.dtype));
  write(int64_t(a.size.size()));
  write(a.size.data(), a.size.size() * sizeof(int64_t));
  write(a.stride.data(), a.stride.size() * sizeof(int64_t));
  write(a.data, a.extent() * size_of(a.dtype));
  delete owner;
}

static StableIValue read_value() {
  switch (const char kind = read<char>()) {
    case 'n': return abi::from(std::nullopt);
    case 'o': return abi::from(new StableIValue(read_value()));
    case 't': return abi::from(read_tensor());
    case 'i': return abi::from(read<int64_t>());
    case 'f': return abi::from(read<double>());
    case 'b': return abi::from(bool(read<char>()));
    case 'l': {
      StableListHandle list;
      torch_new_list_reserve_size(0, &list);
      for (int64_t n = read<int64_t>(); n > 0; n--) torch_list_push_back(list, read_value());
      return abi::from(list);
    }
    default: throw std::runtime_error(std::string("a value of kind ") + kind);
  }
}

// Of what the operators return, the caller says what each is.
static void write_value(char kind, StableIValue value) {
  if (kind == 't') return write_tensor(abi::to<AtenTensorHandle>(value));
  if (kind == 's') {
    auto* s = reinterpret_cast<std::string*>(abi::to<StringHandle>(value));
    write_string(*s);
    delete s;
    return;
  }
  const auto list = abi::to<StableListHandle>(value);
  size_t size;
  torch_list_size(list, &size);
  write(int64_t(size));
  for (size_t i = 0; i < size; i++) {
    torch_list_get_item(list, i, &value);
    write_tensor(abi::to<AtenTensorHandle>(value));
  }
  torch_delete_list(list);
}

static void answer_call() {
  const std::string name = read_string();
  num_threads = read<int64_t>();
  std::vector<StableIValue> stack(read<int64_t>());
  const uint64_t inputs = stack.size();
  for (StableIValue& value : stack) value = read_value();
  const std::string results = read_string();
  stack.resize(std::max(stack.size(), results.size()));
  std::string failure;
  try {
    operators().at(name)(stack.data(), inputs, results.size());
  } catch (const std::exception& error) {
    failure = error.what();
  }
  if (failure.empty() && !guards_hold()) failure = name + " wrote beside its memory";
  write(char(failure.empty()));
  if (!failure.empty()) return write_string(failure);
  for (size_t i = 0; i < results.size(); i++) write_value(results[i], stack[i]);
}

int main() {
  while (true) {
    answer_call();
    std::fflush(stdout);
  }
}
