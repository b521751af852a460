// Quantising values that lie in registers, a block spread over neighbouring lanes.
#pragma once
#include "scales.cuh"

// The tensor [leads, rows, columns] and how many blocks lie along its last two axes.
struct Shape {
  i64 leads, rows, columns, down, across;
};

// Where one block lies: its corner's offset and its size, which edges may cut short. Not inlined:
// 64-bit divisions are long.
struct Place {
  i64 lead, start;
  i64 rows, columns;
};
__device__ __noinline__ Place place_of(i64 block, const Format& format, const Shape& shape) {
  const i64 lead = block / (shape.down * shape.across);
  const i64 row = block / shape.across % shape.down * format.rows;
  const i64 column = block % shape.across * format.columns;
  return {lead, (lead * shape.rows + row) * shape.columns + column,
          min(i64(format.rows), shape.rows - row),
          min(i64(format.columns), shape.columns - column)};
}

// The bits of |x| as they count toward an amax: NaN above Inf, or 0 where formats saturate.
__device__ __forceinline__ u32 amax_bits(float x, int nonfinite) {
  const u32 magnitude = __float_as_uint(x) & ~kSign;
  return nonfinite == kSaturate && magnitude > kInfinity ? 0u : magnitude;
}

// The maximum over aligned runs of `lanes` lanes, a power of two; all 32 lanes take part.
__device__ __forceinline__ u32 maximum_over(u32 value, int lanes) {
#pragma unroll 1
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// The maximum over a block of 256 threads.
__device__ __forceinline__ u32 maximum_over_block(u32 value) {
  __shared__ u32 warps[8];
  value = maximum_over(value, 32);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  u32 total = warps[threadIdx.x % 8];
  return maximum_over(total, 8);
}

// The scale of a block with this amax; a block that is not finite becomes NaN, its codes 0.
struct Chosen {
  Scale scale;
  bool broken;
};
template <Kind K>
__device__ __forceinline__ Chosen choose_scale(u32 amax, const Format& format, Whole whole) {
  if (amax < kInfinity || format.nonfinite == kSaturate)
    return {scale_of<K>(__uint_as_float(amax), format, whole), false};
  return {{nan_scale(format.scale_type), 0.0f}, true};
}

// Codes of N values a lane under the scale of the block that `lanes` lanes share.
template <class Element, Rounding R, Kind K, int N>
__device__ __forceinline__ Vector<u8, N> quantize_lanes(const float (&values)[N], int lanes,
                                                        const Format& format, Whole whole,
                                                        u32& stored) {
  u32 amax = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) amax = max(amax, amax_bits(values[i], format.nonfinite));
  const Chosen chosen = choose_scale<K>(maximum_over(amax, lanes), format, whole);
  stored = chosen.scale.stored;
  Vector<u8, N> codes;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const u32 code = code_of<Element, R, K>(values[i], chosen.scale.operand,
                                                  format.keep_negative_zero);
    codes.at[i] = chosen.broken ? 0 : u8(code);
  }
  return codes;
}

// Offset of the scale of row m, block k in the 128x4 layout with `across` blocks a row: tiles of
// 128 rows by 4 blocks, in each of which rows r, r + 32, r + 64, r + 96 stand side by side.
__device__ __forceinline__ i64 offset_128x4(i64 m, i64 k, i64 across) {
  const i64 tiles = (across + 3) / 4;
  return ((m / 128) * tiles + k / 4) * 512 + (m % 32) * 16 + (m % 128) / 32 * 4 + k % 4;
}

// The expert whose range offsets[e]..offsets[e + 1] holds `row`; `experts` if none does.
template <class Index>
__device__ __forceinline__ int expert_of(i64 row, const Index* offsets, int experts) {
  int low = 0, high = experts;  // the first e with offsets[e + 1] > row lies in low..high
  while (low < high) {
    const int middle = (low + high) / 2;
    if (i64(offsets[middle + 1]) > row) high = middle;
    else low = middle + 1;
  }
  return low;
}
