// GELU and its slope.
#pragma once

#include <cuda_runtime.h>

#if defined(__CUDACC__) || defined(MOCE_EMULATED)
namespace moce {

#ifdef MOCE_EMULATED
inline float reciprocal(float x) { return 1.f / x; }
inline float power_of_two(float x) { return exp2f(x); }
inline float not_negative(float x) { return x < 0.f ? 0.f : x; }
#else
__device__ inline float reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
__device__ inline float power_of_two(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
__device__ inline float not_negative(float x) {  // NaN stays NaN
  asm("max.NaN.f32 %0, %0, 0f00000000;" : "+f"(x));
  return x;
}
#endif

// GELU(a) = a Phi(a), Phi the normal distribution function, and its slope Phi(a) + a Phi'(a); as exact
// as a result of type T needs.
template <class T>
__device__ float gelu(float a, float& slope) {
  if constexpr (sizeof(T) == 4) {
    const float phi = 0.5f + 0.5f * erff(0.70710678f * a);
    slope = phi + 0.39894228f * a * expf(-0.5f * a * a);
    return a * phi;
  } else {
    // With t = 1 / (1 + 0.3375 |a|), Phi(-|a|) is t exp(-a^2 / 2) times a polynomial in t: to 4e-7,
    // and relative to its value to 6e-4 down to where 16 bits end. From 14 on all is zero.
    const float m = fminf(fabsf(a), 14.f), t = reciprocal(0.3375f * m + 1.f);
    const float bell = power_of_two(-0.72134752f * m * m);
    float p = -0.106474015f;
    p = p * t + 0.339502859f;
    p = p * t - 0.0497931700f;
    p = p * t + 0.188997298f;
    p = p * t + 0.127767130f;
    const float tail = p * t * bell;
    slope = (a > 0.f ? 1.f - tail : tail) + 0.39894228f * a * bell;
    return not_negative(a) - m * tail;
  }
}

}  // namespace moce
#endif
