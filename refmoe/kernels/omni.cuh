// Sums of product keys, how they are ordered, and the best of them by brute force.
//
// Order: larger sums first, equal sums by id; -0 equals +0, NaN comes after -inf. Rounding: every
// sum once to Sum (fp32, bf16 or fp16), a score once more to the logits' type.
#pragma once
#include "selection.cuh"

// x + y rounded once to Sum. fp32 first is innocuous: 24 >= 2 p + 2 bits for p = 8 and 11.
template <class Sum> __device__ __forceinline__ float sum_of(float x, float y) {
  return to_float(from_float<Sum>(__fadd_rn(x, y)));
}

// An entrant: larger keys first, then smaller ids; 0 is none.
__device__ __forceinline__ u64 entrant(u32 key, i32 id) {
  return u64(key) << 32 | u32(~u32(id));
}
__device__ __forceinline__ u32 key_of(u64 entrant) { return u32(entrant >> 32); }
__device__ __forceinline__ i32 id_of(u64 entrant) { return i32(~u32(entrant)); }

__device__ __forceinline__ u64 largest_of_warp(u64 value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// The entrants of rows [first, last) by brute force: `count` times the best below the last one.
// For any bits at all; count * (last - first) * n sums.
template <class Sum, class Read>
__device__ __forceinline__ void brute_force(Read x, Read y, i32 first, i32 last, i32 n, i32 count,
                                            u64* list) {
  u64 below = ~u64(0);
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) {
    u64 best = 0;
#pragma unroll 1
    for (i32 i = first; i < last; ++i)
#pragma unroll 1
      for (i32 j = lane_of_thread(); j < n; j += 32) {
        const u64 own = entrant(sortable(sum_of<Sum>(x(i), y(j))), i * n + j);
        if (own < below && own > best) best = own;
      }
    below = largest_of_warp(best);
    if (lane_of_thread() == 0) list[c] = below;
  }
  __syncwarp();
}
