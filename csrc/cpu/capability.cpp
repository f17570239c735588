#include "capability.h"

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace moce {

static Capability detect() {
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  [[maybe_unused]] const bool no_avx2 = limit && std::strcmp(limit, "default") == 0;
  [[maybe_unused]] const bool no_avx512 = no_avx2 || (limit && std::strcmp(limit, "avx2") == 0);
  MOCE_IF_AVX512(
      if (!no_avx512 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx512f") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl")) return Capability::kAvx512;)
  MOCE_IF_AVX2(
      if (!no_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("f16c")) return Capability::kAvx2;)
  MOCE_IF_NEON(return Capability::kNeon;)  // every AArch64 processor has it
  MOCE_IF_BASELINE(return Capability::kBaseline;)
  return Capability::kNone;
}

Capability cpu_capability() {
  static const Capability capability = detect();
  return capability;
}

void no_instruction_set() {
  throw std::runtime_error("the CPU library has no instruction set that may run here");
}

// As MOCE_CPU_ISA names them.
static std::string cpu_capability_name() {
  switch (cpu_capability()) {
    case Capability::kAvx512: return "avx512";
    case Capability::kAvx2: return "avx2";
    case Capability::kNeon: return "neon";
    case Capability::kBaseline: return "baseline";
    default: return "";
  }
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability_name));
}

}  // namespace moce
