#include "capability.h"

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace moce {

static Capability detect() {
#if defined(MOCE_X86_INSTRUCTION_SETS)
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  const bool no_avx2 = wanted && std::strcmp(wanted, "default") == 0;
  const bool no_avx512 = no_avx2 || (wanted && std::strcmp(wanted, "avx2") == 0);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && !no_avx512) return Capability::kAvx512;
  if (avx2 && !no_avx2) return Capability::kAvx2;
#endif
  return Capability::kBaseline;
}

Capability cpu_capability() {
  static const Capability capability = detect();
  return capability;
}

static std::string cpu_capability_name() {
  switch (cpu_capability()) {
    case Capability::kAvx512: return "AVX-512";
    case Capability::kAvx2: return "AVX2";
    default: return "baseline";
  }
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability_name));
}

}  // namespace moce
