// Which of the compiled instruction sets to run.
#pragma once

namespace moce {

enum class Capability { kNone, kBaseline, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// The best that this library holds and this machine has; kNone if there is no such set. The
// environment's ATEN_CPU_CAPABILITY ("default", "avx2", "avx512"), which governs PyTorch's own
// kernels, lowers it: "avx512" is without the products of bfloat16, where the library holds both.
// Decided once.
Capability cpu_capability();
// What calling an operator comes to where there is none; moce_kernels says so before.
[[noreturn]] void no_instruction_set();

}  // namespace moce

// setup.py names the sets that it compiles the kernels for.
#if defined(MOCE_HAS_BASELINE)
#define MOCE_IF_BASELINE(...) __VA_ARGS__
#else
#define MOCE_IF_BASELINE(...)
#endif
#if defined(MOCE_HAS_NEON)
#define MOCE_IF_NEON(...) __VA_ARGS__
#else
#define MOCE_IF_NEON(...)
#endif
#if defined(MOCE_HAS_AVX2)
#define MOCE_IF_AVX2(...) __VA_ARGS__
#else
#define MOCE_IF_AVX2(...)
#endif
#if defined(MOCE_HAS_AVX512)
#define MOCE_IF_AVX512(...) __VA_ARGS__
#else
#define MOCE_IF_AVX512(...)
#endif
#if defined(MOCE_HAS_AVX512_BF16)
#define MOCE_IF_AVX512_BF16(...) __VA_ARGS__
#else
#define MOCE_IF_AVX512_BF16(...)
#endif

// A kernel table compiled for each of them: declares all, and name_for_this_cpu() picks.
#define MOCE_DECLARE_KERNEL(Table, name)                                              \
  namespace moce {                                                                    \
  MOCE_IF_BASELINE(namespace baseline { extern const Table name##_kernel; })          \
  MOCE_IF_NEON(namespace neon { extern const Table name##_kernel; })                  \
  MOCE_IF_AVX2(namespace avx2 { extern const Table name##_kernel; })                  \
  MOCE_IF_AVX512(namespace avx512 { extern const Table name##_kernel; })              \
  MOCE_IF_AVX512_BF16(namespace avx512_bf16 { extern const Table name##_kernel; })    \
  inline const Table& name##_for_this_cpu() {                                         \
    switch (cpu_capability()) {                                                       \
      MOCE_IF_AVX512_BF16(                                                            \
          case Capability::kAvx512Bf16: return avx512_bf16::name##_kernel;)           \
      MOCE_IF_AVX512(case Capability::kAvx512: return avx512::name##_kernel;)         \
      MOCE_IF_AVX2(case Capability::kAvx2: return avx2::name##_kernel;)               \
      MOCE_IF_NEON(case Capability::kNeon: return neon::name##_kernel;)               \
      MOCE_IF_BASELINE(case Capability::kBaseline: return baseline::name##_kernel;)   \
      default: no_instruction_set();                                                  \
    }                                                                                 \
  }                                                                                   \
  }
