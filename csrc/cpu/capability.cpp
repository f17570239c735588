#include "capability.h"

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(MOCE_HAS_AMX)
MOCE_DECLARE_KERNEL(AmxKernel, amx)
#endif

namespace moce {

// Whether ATEN_CPU_CAPABILITY is `name`.
static bool limited_to(const char* name) {
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  return limit && std::strcmp(limit, name) == 0;
}

static Capability detect() {
  [[maybe_unused]] const bool no_avx2 = limited_to("default");
  [[maybe_unused]] const bool no_avx512 = no_avx2 || limited_to("avx2");
  // A library without the lesser set runs the greater one.
  MOCE_IF_AVX512([[maybe_unused]] const bool only_avx512 = limited_to("avx512");)
#if defined(__x86_64__)
  [[maybe_unused]] const bool avx2 = !no_avx2 && __builtin_cpu_supports("avx2") &&
                                     __builtin_cpu_supports("fma") &&
                                     __builtin_cpu_supports("f16c");
  [[maybe_unused]] const bool avx512 =
      avx2 && !no_avx512 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl");
#endif
  MOCE_IF_AVX512(if (avx512 && only_avx512) return Capability::kAvx512;)
  MOCE_IF_AVX512_BF16(if (avx512 && __builtin_cpu_supports("avx512bf16"))
                          return Capability::kAvx512Bf16;)
  MOCE_IF_AVX512(if (avx512) return Capability::kAvx512;)
  MOCE_IF_AVX2(if (avx2) return Capability::kAvx2;)
  MOCE_IF_NEON(return Capability::kNeon;)  // every AArch64 processor has it
  MOCE_IF_BASELINE(return Capability::kBaseline;)
  return Capability::kNone;
}

#if defined(MOCE_EMULATED)

static Amx find_amx() {
  if (!amx_for_this_cpu().right()) throw std::runtime_error("the emulated AMX is wrong");
  return Amx::kUsed;
}

#elif defined(MOCE_HAS_AMX)

// A process has to ask Linux for the tiles' memory, once for all of its threads.
static bool may_use_amx() {
  const char* wanted = std::getenv("MOCE_AMX");
  if (wanted && std::strcmp(wanted, "0") == 0) return false;
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;  // of leaf 7, EDX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

static Amx find_amx() {
  if (cpu_capability() != Capability::kAvx512Bf16 || !may_use_amx()) return Amx::kAbsent;
  return amx_for_this_cpu().right() ? Amx::kUsed : Amx::kWrong;
}

#else

static Amx find_amx() { return Amx::kAbsent; }

#endif

Amx amx() {
  static const Amx found = find_amx();
  return found;
}
bool amx_usable() { return amx() == Amx::kUsed; }

Capability cpu_capability() {
  static const Capability capability = detect();
  return capability;
}

void no_instruction_set() {
  throw std::runtime_error("the CPU library has no instruction set that may run here");
}

// As MOCE_CPU_ISA names them, and AMX where it is used.
static std::string cpu_capability_name() {
  switch (cpu_capability()) {
    case Capability::kAvx512Bf16:
      switch (amx()) {
        case Amx::kUsed: return "avx512_bf16 and amx";
        case Amx::kWrong: return "avx512_bf16 without amx, whose products are wrong here";
        default: return "avx512_bf16";
      }
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
