// Which of the compiled instruction sets to run.
#pragma once

namespace moce {

enum class Capability { kBaseline, kAvx2, kAvx512 };

// The best this machine has; the environment's ATEN_CPU_CAPABILITY ("default", "avx2", "avx512"),
// which governs PyTorch's own kernels, lowers it. Decided once.
Capability cpu_capability();

}  // namespace moce

// The sanitizers' build has one set alone, under the name of the baseline.
#if defined(__x86_64__) && !defined(MOCE_ONE_INSTRUCTION_SET)
#define MOCE_X86_INSTRUCTION_SETS
#endif

// A kernel table compiled for every instruction set: declares all, and name() picks.
#if defined(MOCE_X86_INSTRUCTION_SETS)
#define MOCE_DECLARE_KERNEL(Table, name)                            \
  namespace moce {                                                  \
  namespace baseline { extern const Table name##_kernel; }          \
  namespace avx2 { extern const Table name##_kernel; }              \
  namespace avx512 { extern const Table name##_kernel; }            \
  inline const Table& name##_for_this_cpu() {                       \
    switch (cpu_capability()) {                                     \
      case Capability::kAvx512: return avx512::name##_kernel;       \
      case Capability::kAvx2: return avx2::name##_kernel;           \
      default: return baseline::name##_kernel;                      \
    }                                                               \
  }                                                                 \
  }
#else
#define MOCE_DECLARE_KERNEL(Table, name)                            \
  namespace moce {                                                  \
  namespace baseline { extern const Table name##_kernel; }          \
  inline const Table& name##_for_this_cpu() { return baseline::name##_kernel; } \
  }
#endif
