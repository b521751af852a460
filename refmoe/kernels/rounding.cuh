// Rounding by integers: nothing here depends on flush-to-zero or a conversion unit.
#pragma once
#include "types.cuh"

enum Rounding { kNearestEven, kHalfAway, kHalfTowardZero, kTowardZero };

// value / 2^shift to an integer, 0 <= shift <= 31; value < 2^24.
template <Rounding R> __device__ __forceinline__ u32 shift_right(u32 value, u32 shift) {
  if (R == kTowardZero) return value >> shift;
  const u32 half = (1u << shift) >> 1;
  if (R == kHalfAway) return (value + half) >> shift;
  const u32 below = half ? half - 1u : 0u;
  if (R == kHalfTowardZero) return (value + below) >> shift;
  const u32 odd = shift ? value >> shift & 1u : 0u;
  return (value + below + odd) >> shift;
}

// A finite magnitude as significand * 2^(field - 150): field >= 1, subnormals at field 1.
struct Split {
  u32 significand, field;
};
__device__ __forceinline__ Split split(u32 magnitude) {
  const u32 field = magnitude >> 23;
  return {field ? (magnitude & 0x7FFFFFu) | 0x800000u : magnitude, field ? field : 1u};
}

// 2^exponent for -149 <= exponent <= 127.
__device__ __forceinline__ float power_of_two(int exponent) {
  return __uint_as_float(exponent >= -126 ? u32(exponent + 127) << 23 : 1u << (exponent + 149));
}
