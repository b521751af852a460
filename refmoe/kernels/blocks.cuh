// Blocks of a tensor: where they lie, and the largest magnitude in each.
#pragma once
#include "scales.cuh"

// The tensor [leads, rows, columns] and how many blocks lie along its last two axes.
struct Shape {
  i64 leads, rows, columns, down, across;
};

// Where one block lies: its corner's offset and its size, which edges may cut short.
struct Place {
  i64 lead, start;
  i64 rows, columns;
};
__device__ __forceinline__ Place place_at(i64 lead, i64 down, i64 across, const Format& format,
                                          const Shape& shape) {
  const i64 row = down * format.rows, column = across * format.columns;
  return {lead, (lead * shape.rows + row) * shape.columns + column,
          min(i64(format.rows), shape.rows - row),
          min(i64(format.columns), shape.columns - column)};
}
// The same of the block with this number. Not inlined: 64-bit divisions are long.
__device__ __noinline__ Place place_of(i64 block, const Format& format, const Shape& shape) {
  const i64 lead = block / (shape.down * shape.across);
  return place_at(lead, block / shape.across % shape.down, block % shape.across, format, shape);
}

// The largest magnitude of N values as fp32 bits, NaN above Inf. Magnitudes of 16-bit floats
// order as their bits do, two at a time.
template <class T, int N> __device__ __forceinline__ u32 magnitude_of(const Held<T, N>& x) {
  u32 largest = 0;
  if constexpr (sizeof(T) == 2) {
    u32 both = 0;
#pragma unroll
    for (int w = 0; w < x.kWords; ++w) both = __vmaxu2(both, x.words[w] & 0x7FFF7FFFu);
    largest = __float_as_uint(to_float(T{u16(max(both & 0xFFFFu, both >> 16))}));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) largest = max(largest, x.words[i] & ~kSign);
  }
  return largest;
}

// The same with NaN for 0.
template <class T, int N> __device__ __noinline__ u32 magnitude_without_nan(Held<T, N> x) {
  u32 largest = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const u32 own = __float_as_uint(float_at(x, i)) & ~kSign;
    largest = max(largest, own > kInfinity ? 0u : own);
  }
  return largest;
}

// What N values count for in their block's amax: where the format saturates a NaN, which is
// `missing` then, counts for 0.
template <class T, int N>
__device__ __forceinline__ u32 amax_of(const Held<T, N>& x, int nonfinite, bool& missing) {
  const u32 amax = magnitude_of(x);
  if (amax <= kInfinity || nonfinite != kSaturate) return amax;
  missing = true;
  return magnitude_without_nan(x);
}
template <class T, int N>
__device__ __forceinline__ u32 amax_of(const Held<T, N>& x, int nonfinite) {
  bool missing = false;
  return amax_of(x, nonfinite, missing);
}

// The maxima of U values over aligned runs of `lanes` lanes, a power of two; all lanes take part.
template <int U> __device__ __forceinline__ void maximum_over(u32 (&values)[U], int lanes) {
#pragma unroll 1
  for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
    for (int u = 0; u < U; ++u)
      values[u] = max(values[u], __shfl_xor_sync(kAllLanes, values[u], offset));
}
__device__ __forceinline__ u32 maximum_over(u32 value, int lanes) {
  u32 values[1] = {value};
  maximum_over(values, lanes);
  return values[0];
}

// The maximum over a thread block of whole warps.
__device__ __forceinline__ u32 maximum_over_block(u32 value) {
  __shared__ u32 warps[32];
  value = maximum_over(value, 32);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  return maximum_over(threadIdx.x % 32 < blockDim.x / 32 ? warps[threadIdx.x % 32] : 0u, 32);
}

// Offset of the scale of row m, block k in the 128x4 layout with `across` blocks a row: tiles of
// 128 rows by 4 blocks, in each of which rows r, r + 32, r + 64, r + 96 stand side by side.
__device__ __forceinline__ i64 offset_128x4(i64 m, i64 k, i64 across) {
  const i64 tiles = (across + 3) / 4;
  return ((m / 128) * tiles + k / 4) * 512 + (m % 32) * 16 + (m % 128) / 32 * 4 + k % 4;
}

// The expert whose range offsets[e]..offsets[e + 1] holds `row`; `experts` if none does.
template <class Offsets>
__device__ __forceinline__ int expert_of(i64 row, Offsets offsets, int experts) {
  int low = 0, high = experts;  // the first e with offsets[e + 1] > row lies in low..high
  while (low < high) {
    const int middle = (low + high) / 2;
    if (i64(offsets[middle + 1]) > row) high = middle;
    else low = middle + 1;
  }
  return low;
}
