// Elementary functions of fp32 as the kernels use them: no fast variants, subnormals kept.
// Errors (CUDA C++ Programming Guide, tables of maximum errors): expf, log1pf, tanhf 1 to 2 ulp,
// erff 2 ulp, sqrtf and division correctly rounded.
#pragma once
#include "types.cuh"

// 1 / (1 + e^-x) without overflow: e^x / (1 + e^x) below 0, where e^x is small.
__device__ __forceinline__ float sigmoid(float x) {
  const float power = expf(-fabsf(x));
  return __fdiv_rn(x < 0.0f ? power : 1.0f, __fadd_rn(1.0f, power));
}

// log(1 + e^x): never less than x, never more than x + log 2 for x > 0.
__device__ __forceinline__ float softplus(float x) {
  return __fadd_rn(x > 0.0f ? x : 0.0f, log1pf(expf(-fabsf(x))));
}

// min and max that hand a NaN on.
__device__ __forceinline__ float at_most(float x, float top) { return x > top ? top : x; }
__device__ __forceinline__ float at_least(float x, float bottom) { return x < bottom ? bottom : x; }
