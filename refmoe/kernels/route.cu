// Logits to the chosen experts and their weights, one warp a token.
// Order of all keys: larger first, then by index. Rounding: every operation is one of fp32.
#include "route.cuh"

__device__ __forceinline__ float sum_over_warp(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = __fadd_rn(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// The maximum over the warp as a softmax wants it: NaN if there is one.
__device__ __forceinline__ float maximum_over_warp(float value) {
  const bool nan = __any_sync(kAllLanes, is_nan(value));
  const float top = from_sortable(__reduce_max_sync(kAllLanes, sortable(value)));
  return nan ? quiet_nan() : top;
}

// The value that the lane of `index` holds there.
template <int V> __device__ __forceinline__ float value_at(const float (&values)[V], i32 index) {
  float own = 0.0f;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (index / 32 == v) own = values[v];
  return __shfl_sync(kAllLanes, own, index % 32);
}

// Columns a lane up to which groups are told apart: wider ones are left to the naive kernel.
constexpr int kGroupedColumns = 8;

// Leaves the keys of the best groups and gives all others the fill; at most 32 groups.
template <int V>
__device__ __forceinline__ void keep_groups_of_warp(u32 (&keys)[V], const Router& router) {
  const i32 size = router.choices / router.groups, lane = lane_of_thread();
  u32 score[1] = {0};  // of the group whose number is this lane's
#pragma unroll 1
  for (i32 g = 0; g < router.groups; ++g) {
    u32 members[V], first, second;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const i32 index = v * 32 + lane;
      members[v] = index >= g * size && index < (g + 1) * size ? keys[v] : 0;
    }
    remove(members, best_of_warp(members, first));
    float sum = from_sortable(first);
    if (router.top2) {
      best_of_warp(members, second);
      sum = __fadd_rn(sum, from_sortable(second));
    }
    if (lane == g) score[0] = sortable(sum);
  }
  u32 kept = 0;
#pragma unroll 1
  for (i32 n = 0; n < router.top_groups; ++n) {
    u32 key;
    const i32 g = best_of_warp(score, key);
    kept |= 1u << g;
    if (lane == g) score[0] = 0;
  }
  const u32 fill = sortable(router.fill_zero ? 0.0f : -infinity());
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const i32 index = v * 32 + lane;
    if (index < router.choices && !(kept >> (index / size) & 1u)) keys[v] = fill;
  }
}

// The scores of all columns in place of their logits; lanes past the last column have -inf.
template <Score S, int V>
__device__ __forceinline__ void score_all(float (&scores)[V], i32 columns, const Router& router) {
  if (S != kSoftmax) {
#pragma unroll
    for (int v = 0; v < V; ++v) scores[v] = own_score(scores[v], S);
    return;
  }
  float top = -infinity(), sum = 0.0f;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (is_nan(scores[v]) || scores[v] > top) top = scores[v];
  top = maximum_over_warp(top);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    scores[v] = v * 32 + lane_of_thread() < columns ? expf(__fsub_rn(scores[v], top)) : 0.0f;
    sum = __fadd_rn(sum, scores[v]);
  }
  // The sum is 1 at least, or NaN.
  const float share = __fdiv_rn(1.0f, sum_over_warp(sum));
#pragma unroll
  for (int v = 0; v < V; ++v) scores[v] = __fmul_rn(scores[v], share);
}

// One warp does one token: V columns a lane, up to 32 slots, groups (of at most 256 columns) and
// shared columns.
// Grid: ceil(tokens / 4), block 128.
template <class T, Score S, int V>
__global__ void __launch_bounds__(128)
route_warps(const T* given, i64 tokens, i32* ids, float* weights, float* shared_weights,
            const __grid_constant__ Router router) {
  const i64 token = i64(blockIdx.x) * 4 + threadIdx.x / 32;
  if (token >= tokens) return;
  const i32 columns = router.choices + router.shared, k = router.top_k, lane = lane_of_thread();
  float scores[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const i32 c = v * 32 + lane;
    scores[v] = c < columns ? to_float(given[token * columns + c]) : -infinity();
  }
  if (transforms(router))
#pragma unroll
    for (int v = 0; v < V; ++v) scores[v] = transformed(scores[v], v * 32 + lane, router);
  if (!router.compares_logits) score_all<S>(scores, columns, router);
  i32 id = -1;  // of the slot whose number is this lane's
  if (router.method == kHash) {
    if (lane < k) id = looked_up(token, lane, router);
  } else {
    u32 keys[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const i32 c = v * 32 + lane;
      float key = scores[v];
      if (router.bias_on == kOnSelection && c < router.choices)
        key = __fadd_rn(key, read_float(router.bias, router.bias_type, c));
      keys[v] = c < router.choices ? sortable(key) : 0u;
    }
    if (V <= kGroupedColumns && router.groups != router.top_groups)
      keep_groups_of_warp(keys, router);
#pragma unroll 1
    for (i32 j = 0; j < k; ++j) {
      u32 key;
      const i32 best = best_of_warp(keys, key);
      remove(keys, best);
      if (lane == j) id = best;
    }
  }
  float weight = 0.0f, shared = 0.0f;
#pragma unroll 1
  for (i32 j = 0; j < k; ++j) {
    const i32 own = __shfl_sync(kAllLanes, id, j);
    const float taken = value_at(scores, own < 0 ? 0 : own);
    if (lane == j) weight = taken;
  }
#pragma unroll 1
  for (i32 s = 0; s < router.shared; ++s) {
    const float taken = value_at(scores, router.choices + s);
    if (lane == s) shared = taken;
  }
  if (router.compares_logits) {
    if (S == kSoftmax) {
      const float top = maximum_over_warp(id < 0 ? -infinity() : weight);
      weight = lane < k && id >= 0 ? expf(__fsub_rn(weight, top)) : 0.0f;
      weight = __fdiv_rn(weight, sum_over_warp(weight));
    } else {
      weight = own_score(weight, S);
    }
    shared = own_score(shared, S);
  }
  if (id < 0) weight = 0.0f;
  if (router.renormalize != kAsTheyAre) {
    const float own = __fadd_rn(weight, lane < router.shared ? shared : 0.0f);
    const float total = divisor(sum_over_warp(own), router);
    weight = __fdiv_rn(weight, total);
    shared = __fdiv_rn(shared, total);
  }
  if (lane < k) {
    ids[token * k + lane] = id;
    weights[token * k + lane] = id < 0 ? 0.0f : scaled(weight, id, router);
  }
  if (lane < router.shared)
    shared_weights[token * router.shared + lane] =
        router.scale != 1.0f ? __fmul_rn(shared, router.scale) : shared;
}
