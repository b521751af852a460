// The gated and plain activations, one value at a time.
#pragma once
#include "functions.cuh"

// In the order of ActivationKind; kPlain is a GEMM without an activation.
enum Curve {
  kSwiglu, kGegluTanh, kGegluErf, kSoftcap, kSilu, kGeluErf, kRelu2, kIdentity, kPlain
};
__host__ __device__ constexpr bool is_gated(Curve curve) { return curve <= kSoftcap; }

// Constants of the activation; per-expert tensors f32[E] override alpha, beta and limit.
struct Parameters {
  const float* alphas;
  const float* betas;
  const float* limits;
  float alpha, beta, limit;  // a limit of 0 is off
  float gate_cap, up_cap;
  i32 clamp_after;
};

__device__ __forceinline__ float gelu_tanh(float g) {
  const float cube = __fmul_rn(__fmul_rn(g, g), __fmul_rn(g, 0.044715f));
  const float inner = __fmul_rn(__fadd_rn(g, cube), 0.797884560802865356f);  // sqrt(2 / pi)
  return __fmul_rn(__fmul_rn(g, 0.5f), __fadd_rn(tanhf(inner), 1.0f));
}
__device__ __forceinline__ float gelu_erf(float g) {
  const float curve = erff(__fmul_rn(g, 0.707106781186547524f));  // sqrt(1 / 2)
  return __fmul_rn(__fmul_rn(g, 0.5f), __fadd_rn(curve, 1.0f));
}
__device__ __forceinline__ float capped(float x, float cap) {
  return __fmul_rn(tanhf(__fdiv_rn(x, cap)), cap);
}

// One value of the intermediate; every operation is one of fp32, NaN goes through.
// clamp_after = 0: g' = min(g, L), u' = clamp(u, -L, L), curve(g') (u' + beta);
// clamp_after = 1: min(curve(g), L) (u' + beta). curve of swiglu: g sigmoid(alpha g).
template <Curve C>
__device__ __forceinline__ float activated(float g, float u, const Parameters& p) {
  if (C == kIdentity) return u;
  if (C == kRelu2) {
    const float positive = at_least(u, 0.0f);
    return __fmul_rn(positive, positive);
  }
  if (C == kSilu) return __fmul_rn(u, sigmoid(u));
  if (C == kGeluErf) return gelu_erf(u);
  if (C == kSoftcap)
    return __fmul_rn(__fmul_rn(capped(g, p.gate_cap), sigmoid(g)), capped(u, p.up_cap));
  const float top = p.limit > 0.0f ? p.limit : infinity();
  u = __fadd_rn(at_least(at_most(u, top), -top), p.beta);
  if (!p.clamp_after) g = at_most(g, top);
  float curve;
  if (C == kGegluTanh) curve = gelu_tanh(g);
  else if (C == kGegluErf) curve = gelu_erf(g);
  else curve = __fmul_rn(g, sigmoid(__fmul_rn(g, p.alpha)));
  if (p.clamp_after) curve = at_most(curve, top);
  return __fmul_rn(curve, u);
}
