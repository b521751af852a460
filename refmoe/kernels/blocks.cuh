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

// The largest magnitude of N values as fp32 bits, NaN above Inf. Magnitudes of 16-bit floats
// order as their bits do, two at a time.
template <class T, int N> __device__ __forceinline__ u32 magnitude_of(const Vector<T, N>& x) {
  u32 largest = 0;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    const u32* pairs = reinterpret_cast<const u32*>(&x);
    u32 both = 0;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) both = __vmaxu2(both, pairs[i] & 0x7FFF7FFFu);
    largest = __float_as_uint(to_float(T{u16(max(both & 0xFFFFu, both >> 16))}));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      largest = max(largest, __float_as_uint(to_float(x.at[i])) & ~kSign);
  }
  return largest;
}

// What N values count for in their block's amax: a NaN for 0 where the format saturates.
template <class T, int N>
__device__ __forceinline__ u32 amax_of(const Vector<T, N>& x, int nonfinite) {
  u32 amax = magnitude_of(x);
  if (amax <= kInfinity || nonfinite != kSaturate) return amax;
  amax = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const u32 own = __float_as_uint(to_float(x.at[i])) & ~kSign;
    amax = max(amax, own > kInfinity ? 0u : own);
  }
  return amax;
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

// The scale of a block with this amax. A block that is not finite becomes NaN, its codes 0; one
// that is `plain` has no Inf, and a scale that is safe to divide by in short.
struct Chosen {
  Scale scale;
  bool broken, plain;
};
template <Kind K>
__device__ __forceinline__ Chosen choose_scale(u32 amax, const Format& format, Whole whole) {
  if (amax >= kInfinity && format.nonfinite != kSaturate)
    return {{nan_scale(format.scale_type), 0.0f}, true, false};
  const Scale scale = scale_of<K>(__uint_as_float(amax), format, whole);
  const bool safe = K != kDivided || (scale.operand > power_of_two(-80) &&
                                      scale.operand < power_of_two(80));
  return {scale, false, amax < kInfinity && safe};
}

// x / s from r = 1 / s, correctly rounded: a quotient within an ulp, its exact remainder, and once
// more (Markstein 1990). Where the remainder would underflow the quotient is below any code; a
// zero loses its sign on the way.
__device__ __forceinline__ float quotient(float x, float s, float r) {
  float q = __fmul_rn(x, r);
  q = __fmaf_rn(__fmaf_rn(-q, s, x), r, q);
  q = __fmaf_rn(__fmaf_rn(-q, s, x), r, q);
  return __uint_as_float((__float_as_uint(q) & ~kSign) | (__float_as_uint(x) & kSign));
}

// The code of one value by the long way: any rounding, any value, any scale.
template <class Element, Rounding R, Kind K>
__device__ __noinline__ u32 code_of(float value, float operand) {
  return encode<Element, R>(K == kDivided ? __fdiv_rn(value, operand) : __fmul_rn(value, operand));
}

// The same as a block keeps it: negative zero where the format has it, 0 in a broken block.
template <class Element, Rounding R, Kind K>
__device__ __forceinline__ u8 code_of(float value, const Chosen& chosen, const Format& format) {
  const u32 code = code_of<Element, R, K>(value, chosen.scale.operand);
  const bool negative_zero = !Element::kInteger && code == 1u << (Element::kBits - 1);
  return chosen.broken || (negative_zero && !format.keep_negative_zero) ? 0 : u8(code);
}

// The codes of N values under the scale that was chosen for their block.
template <class T, class Element, Rounding R, Kind K, int N>
__device__ __forceinline__ Vector<u8, N> codes_of(const Vector<T, N>& x, const Chosen& chosen,
                                                  const Format& format) {
  constexpr bool kShort = sizeof(T) == 2 && K == kPower;
  constexpr u32 kNegativeZero = Element::kInteger ? 256u : 1u << (Element::kBits - 1);
  const float operand = chosen.scale.operand;
  Vector<u8, N> codes{};
  if (chosen.broken) return codes;
  const bool missing = format.nonfinite == kSaturate && magnitude_of(x) > kInfinity;
  if (R == kNearestEven && chosen.plain && !missing) {
    const float inverse = K == kDivided ? divide(1.0f, operand) : 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float value = to_float(x.at[i]);
      const float scaled =
          K == kDivided ? quotient(value, operand, inverse) : __fmul_rn(value, operand);
      codes.at[i] = u8(encode_finite<Element, kShort>(scaled));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      codes.at[i] = u8(code_of<Element, R, K>(to_float(x.at[i]), operand));
  }
  if (!Element::kInteger && !format.keep_negative_zero)
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (codes.at[i] == kNegativeZero) codes.at[i] = 0;
  return codes;
}

// Codes of N values a lane under the scale of the block that `lanes` lanes share.
template <class T, class Element, Rounding R, Kind K, int N>
__device__ __forceinline__ Vector<u8, N> quantize_lanes(const Vector<T, N>& x, int lanes,
                                                        const Format& format, Whole whole,
                                                        u32& stored) {
  const u32 amax = maximum_over(amax_of(x, format.nonfinite), lanes);
  const Chosen chosen = choose_scale<K>(amax, format, whole);
  stored = chosen.scale.stored;
  return codes_of<T, Element, R, K>(x, chosen, format);
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
