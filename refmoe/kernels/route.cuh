// What both routing kernels share: the router's description, keys that compare, weights.
#pragma once
#include "functions.cuh"
#include "selection.cuh"

enum Score { kSoftmax, kSigmoid, kSqrtSoftplus, kIdentityScore };
enum Method { kTopK, kSparsemixer, kHash };
enum BiasOn { kNoBias, kOnSelection, kOnLogits };
enum Renormalize { kAsTheyAre, kBySum, kBySumPlusEpsilon, kByMaxSumEpsilon };

// Columns of the logits: `choices` that can be chosen, then `shared` that weight shared experts.
struct Router {
  const void* bias;              // f[choices]
  const void* per_expert_scale;  // f[choices]
  const void* table;             // i[vocabulary, top_k], kHash
  const void* token_ids;         // i[tokens]
  i64 vocabulary;
  i32 choices, shared, top_k;
  i32 score, method, compares_logits, bias_on, renormalize;
  i32 groups, top_groups, top2, fill_zero;
  i32 bias_type, scale_type;      // 0 fp32, 1 bf16, 2 fp16
  i32 table_wide, token_wide;     // i64 instead of i32
  float epsilon, scale, logits_scale, softcap, jitter;  // softcap 0: none
};

__device__ __forceinline__ float read_float(const void* from, int type, i32 index) {
  if (type == 1) return to_float(static_cast<const bf16*>(from)[index]);
  if (type == 2) return to_float(static_cast<const fp16*>(from)[index]);
  return static_cast<const float*>(from)[index];
}
__device__ __forceinline__ i64 read_index(const void* from, int wide, i64 index) {
  return wide ? static_cast<const i64*>(from)[index] : i64(static_cast<const i32*>(from)[index]);
}

// A logit after scale, softcap and a logits bias. Not inlined: most routers do none of it.
__device__ __noinline__ float transformed(float logit, i32 column, const Router& router) {
  if (router.logits_scale != 1.0f) logit = __fmul_rn(logit, router.logits_scale);
  if (router.softcap > 0.0f)
    logit = __fmul_rn(tanhf(__fdiv_rn(logit, router.softcap)), router.softcap);
  if (router.bias_on == kOnLogits && column < router.choices)
    logit = __fadd_rn(logit, read_float(router.bias, router.bias_type, column));
  return logit;
}

__device__ __forceinline__ bool transforms(const Router& router) {
  return router.logits_scale != 1.0f || router.softcap > 0.0f || router.bias_on == kOnLogits;
}

// The score of one logit, for functions of it alone.
__device__ __forceinline__ float own_score(float logit, int score) {
  if (score == kSigmoid) return sigmoid(logit);
  if (score == kSqrtSoftplus) return __fsqrt_rn(softplus(logit));
  return logit;
}

// The sum that weights are divided by, from the plain sum of them.
__device__ __forceinline__ float divisor(float sum, const Router& router) {
  if (router.renormalize == kBySumPlusEpsilon) return __fadd_rn(sum, router.epsilon);
  if (router.renormalize == kByMaxSumEpsilon) return at_least(sum, router.epsilon);
  return sum;
}

// The id that the hash table holds for a slot; -1 where token or entry are out of range.
__device__ __forceinline__ i32 looked_up(i64 token, i32 slot, const Router& router) {
  const i64 id = read_index(router.token_ids, router.token_wide, token);
  if (id < 0 || id >= router.vocabulary) return -1;
  const i64 expert = read_index(router.table, router.table_wide, id * router.top_k + slot);
  return expert >= 0 && expert < router.choices ? i32(expert) : -1;
}

// A weight times the router's scale and the expert's own.
__device__ __forceinline__ float scaled(float weight, i32 id, const Router& router) {
  if (router.scale != 1.0f) weight = __fmul_rn(weight, router.scale);
  if (router.per_expert_scale)
    weight = __fmul_rn(weight, read_float(router.per_expert_scale, router.scale_type, id));
  return weight;
}
