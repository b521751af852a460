// Sums and prefixes over a warp and over a thread block, in a fixed order.
#pragma once
#include "types.cuh"

__device__ __forceinline__ int lane_of_thread() { return int(threadIdx.x % 32); }

// The sum of the lanes before this one; `total` is the sum of all 32.
__device__ __forceinline__ i32 prefix_over_warp(i32 value, i32& total) {
  i32 sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const i32 other = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane_of_thread() >= offset) sum += other;
  }
  total = __shfl_sync(kAllLanes, sum, 31);
  return sum - value;
}

// The sum of the threads before this one in a block of whole warps; every thread takes part.
__device__ __forceinline__ i32 prefix_over_block(i32 value, i32& total) {
  __shared__ i32 warps[32];
  i32 own;
  const i32 before = prefix_over_warp(value, own);
  const int warp = int(threadIdx.x / 32), count = int(blockDim.x / 32);
  if (lane_of_thread() == 0) warps[warp] = own;
  __syncthreads();
  i32 base = 0, sum = 0;
  for (int w = 0; w < count; ++w) {
    if (w == warp) base = sum;
    sum += warps[w];
  }
  __syncthreads();
  total = sum;
  return base + before;
}
