// Keys that compare as values do, and the best of them across a warp.
#pragma once
#include "warp.cuh"

// An integer that compares as the value does: -0 as +0, every NaN below -inf. 0 stands for no
// entrant at all.
constexpr u32 kNanKey = 1u;
__device__ __forceinline__ u32 sortable(float value) {
  if (is_nan(value)) return kNanKey;
  const u32 bits = __float_as_uint(__fadd_rn(value, 0.0f));
  return bits & kSign ? ~bits : bits | kSign;
}
__device__ __forceinline__ float from_sortable(u32 key) {
  if (key == kNanKey) return quiet_nan();
  return __uint_as_float(key & kSign ? key & ~kSign : ~key);
}

// The warp's best entrant by key, then by index; lane l holds indices l, 32 + l, 64 + l ...
template <int V> __device__ __forceinline__ i32 best_of_warp(const u32 (&keys)[V], u32& key) {
  u32 own = 0, at = 0;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (keys[v] > own) {
      own = keys[v];
      at = u32(v * 32);
    }
  key = __reduce_max_sync(kAllLanes, own);
  const u32 index = own == key ? at + u32(lane_of_thread()) : ~0u;
  return i32(__reduce_min_sync(kAllLanes, index));
}

template <int V> __device__ __forceinline__ void remove(u32 (&keys)[V], i32 index) {
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (index == v * 32 + lane_of_thread()) keys[v] = 0;
}
