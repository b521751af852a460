// Logits to the chosen experts and their weights, one thread a token: the plain reading.
// Order of all keys: larger first, then by index. Rounding: every operation is one of fp32.
#include "route.cuh"

// The best entrant by key, then by index; its key becomes 0. -1 if there is none left.
__device__ __noinline__ i32 take_best(u32* keys, i32 count) {
  i32 best = -1;
#pragma unroll 1
  for (i32 i = 0; i < count; ++i)
    if (keys[i] && (best < 0 || keys[i] > keys[best])) best = i;
  if (best >= 0) keys[best] = 0;
  return best;
}

// What group g counts for: its best key, or the sum of its two best.
__device__ __noinline__ u32 group_key(const u32* keys, i32 g, i32 size, i32 top2) {
  u32 first = 0, second = 0;
#pragma unroll 1
  for (i32 i = g * size; i < (g + 1) * size; ++i) {
    if (keys[i] > first) {
      second = first;
      first = keys[i];
    } else if (keys[i] > second) {
      second = keys[i];
    }
  }
  return top2 ? sortable(__fadd_rn(from_sortable(first), from_sortable(second))) : first;
}

// kept = keys of the best groups; those of all others become the fill.
__device__ __noinline__ void keep_groups(const u32* keys, u32* kept, const Router& router) {
  const i32 size = router.choices / router.groups;
  const u32 fill = sortable(router.fill_zero ? 0.0f : -infinity());
#pragma unroll 1
  for (i32 g = 0; g < router.groups; ++g) {
    const u32 own = group_key(keys, g, size, router.top2);
    i32 ahead = 0;
#pragma unroll 1
    for (i32 other = 0; other < router.groups; ++other) {
      const u32 key = group_key(keys, other, size, router.top2);
      ahead += key > own || (key == own && other < g);
    }
#pragma unroll 1
    for (i32 i = g * size; i < (g + 1) * size; ++i)
      kept[i] = ahead < router.top_groups ? keys[i] : fill;
  }
}

// Puts e^(v - max) in place of `count` values and returns the sum.
__device__ __noinline__ float exponentials(float* values, i32 count) {
  float top = -infinity(), sum = 0.0f;
#pragma unroll 1
  for (i32 c = 0; c < count; ++c)
    if (is_nan(values[c]) || values[c] > top) top = values[c];
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) {
    values[c] = expf(__fsub_rn(values[c], top));
    sum = __fadd_rn(sum, values[c]);
  }
  return sum;
}

__device__ __noinline__ void softmax(float* values, i32 count) {
  const float sum = exponentials(values, count);
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) values[c] = __fdiv_rn(values[c], sum);
}

// The weight of one round of sparsemixer: a softmax over the near rivals of `expert`, those of
// `taken` left out.
__device__ __noinline__ float sparsemixer_round(const float* logits, float* scores, i32 count,
                                                i32 expert, i32 taken, float jitter) {
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) scores[c] = c == taken ? -infinity() : logits[c];
  exponentials(scores, count);
  const float top = logits[expert];
  float sum = 0.0f;
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) {
    const float ratio = __fdiv_rn(__fsub_rn(top, logits[c]), at_least(fabsf(logits[c]), top));
    if (c != taken && !(ratio > 2.0f * jitter)) sum = __fadd_rn(sum, scores[c]);
  }
  return __fdiv_rn(scores[expert], sum);
}

// One thread does one token, its logits, scores and keys in `scratch`, 4 words a column.
// Grid: ceil(tokens / block), any block.
template <class T>
__global__ void route_naive(const T* given, i64 tokens, i32* ids, float* weights,
                            float* shared_weights, float* scratch,
                            const __grid_constant__ Router router) {
  const i64 token = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token >= tokens) return;
  const i32 columns = router.choices + router.shared, k = router.top_k;
  float* logits = scratch + token * columns * 4;
  float* scores = logits + columns;
  u32* keys = reinterpret_cast<u32*>(scores + columns);  // two words a column
#pragma unroll 1
  for (i32 c = 0; c < columns; ++c) {
    logits[c] = transformed(to_float(given[token * columns + c]), c, router);
    scores[c] = own_score(logits[c], router.score);
  }
  if (router.score == kSoftmax && !router.compares_logits) softmax(scores, columns);
#pragma unroll 1
  for (i32 c = 0; c < router.choices; ++c) {
    float key = router.compares_logits ? logits[c] : scores[c];
    if (router.bias_on == kOnSelection)
      key = __fadd_rn(key, read_float(router.bias, router.bias_type, c));
    keys[c] = sortable(key);
  }
  if (router.groups != router.top_groups) {
    keep_groups(keys, keys + router.choices, router);
    keys += router.choices;
  }
  i32* chosen = ids + token * k;
  float* weight = weights + token * k;
  float* shared = shared_weights + token * router.shared;
#pragma unroll 1
  for (i32 j = 0; j < k; ++j)
    chosen[j] = router.method == kHash ? looked_up(token, j, router)
                                       : take_best(keys, router.choices);
  if (router.method == kSparsemixer) {
    weight[0] = sparsemixer_round(logits, scores, columns, chosen[0], -1, router.jitter);
    weight[1] = sparsemixer_round(logits, scores, columns, chosen[1], chosen[0], router.jitter);
  } else {
#pragma unroll 1
    for (i32 j = 0; j < k; ++j) weight[j] = chosen[j] < 0 ? -infinity() : scores[chosen[j]];
    if (router.score == kSoftmax && router.compares_logits) softmax(weight, k);
  }
#pragma unroll 1
  for (i32 s = 0; s < router.shared; ++s) shared[s] = scores[router.choices + s];
#pragma unroll 1
  for (i32 j = 0; j < k; ++j)
    if (chosen[j] < 0) weight[j] = 0.0f;
  if (router.renormalize != kAsTheyAre) {
    float sum = 0.0f;
#pragma unroll 1
    for (i32 j = 0; j < k; ++j) sum = __fadd_rn(sum, weight[j]);
#pragma unroll 1
    for (i32 s = 0; s < router.shared; ++s) sum = __fadd_rn(sum, shared[s]);
    const float total = divisor(sum, router);
#pragma unroll 1
    for (i32 j = 0; j < k; ++j) weight[j] = __fdiv_rn(weight[j], total);
#pragma unroll 1
    for (i32 s = 0; s < router.shared; ++s) shared[s] = __fdiv_rn(shared[s], total);
  }
#pragma unroll 1
  for (i32 j = 0; j < k; ++j)
    weight[j] = chosen[j] < 0 ? 0.0f : scaled(weight[j], chosen[j], router);
#pragma unroll 1
  for (i32 s = 0; s < router.shared; ++s)
    if (router.scale != 1.0f) shared[s] = __fmul_rn(shared[s], router.scale);
}
