// Elementary functions of fp32 as the kernels use them: no fast variants, subnormals kept.
// Errors (CUDA C++ Programming Guide, tables of maximum errors): expf, log1pf, tanhf 1 to 2 ulp,
// erff 2 ulp, sqrtf and division correctly rounded.
#pragma once
#include "types.cuh"

// a / b rounded once, for 0 <= a <= 1 <= b <= 2: the steps that __fdiv_rn takes for such numbers,
// without its tests for others. b = 1 gives a itself.
__device__ __forceinline__ float divide_small(float a, float b) {
#ifdef REFMOE_EMULATED
  return __fdiv_rn(a, b);
#else
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  r = __fmaf_rn(__fmaf_rn(-b, r, 1.0f), r, r);
  const float q = __fmul_rn(a, r);
  return __fmaf_rn(__fmaf_rn(-b, q, a), r, q);
#endif
}

// 1 / (1 + e^-x) without overflow: e^x / (1 + e^x) below 0, where e^x is small.
__device__ __forceinline__ float sigmoid(float x) {
  const float power = expf(-fabsf(x));
  return divide_small(x < 0.0f ? power : 1.0f, __fadd_rn(1.0f, power));
}

// log(1 + e^x): never less than x, never more than x + log 2 for x > 0.
__device__ __forceinline__ float softplus(float x) {
  return __fadd_rn(x > 0.0f ? x : 0.0f, log1pf(expf(-fabsf(x))));
}

// min and max that hand a NaN on.
__device__ __forceinline__ float at_most(float x, float top) {
#ifdef REFMOE_EMULATED
  return x > top ? top : x;
#else
  float least;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(x), "f"(top));
  return least;
#endif
}
__device__ __forceinline__ float at_least(float x, float bottom) {
#ifdef REFMOE_EMULATED
  return x < bottom ? bottom : x;
#else
  float largest;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(largest) : "f"(x), "f"(bottom));
  return largest;
#endif
}
