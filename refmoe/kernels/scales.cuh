// From a block's amax to its scale and to the number that the block's values meet.
#pragma once
#include "formats.cuh"

enum ScaleRule { kFloor, kCeil, kEven, kRceil, kDivide, kMultiply, kInvert };
enum ScaleType { kE8m0, kE4m3, kFp32, kBf16, kFp16 };
enum Apply { kByDivision, kByReciprocal, kByInverse };
enum Recipe { kPaper, kTe, kFlashinfer, kTorchao, kModelopt };
enum Nonfinite { kPropagate, kSaturate };

// One copy of the division's long way round: a kernel holds a dozen of them once a block.
__device__ __noinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }

constexpr float kLargestFloat = 3.40282346638528859812e38f, kLeastFloat = 1.401298464324817e-45f;

// A block format, rounding apart (a template argument; so are element and kind where it counts).
struct Format {
  i32 rows, columns;  // of a block
  i32 scale_type, rule, apply, recipe, nonfinite;
  i32 minimum_byte, keep_negative_zero, has_zero_scale;
  i32 element, kind;     // what naive kernels look up: `Elements` and `Kind`
  i32 largest_exponent;  // floor(log2(maximum))
  u32 round_up_past;     // of a power of two: the largest fraction of amax that rounds down
  float maximum, amax_floor;
  float zero_scale;  // of an all-zero block, where has_zero_scale; a power of two for E8M0
};

// The scale of the whole tensor (NVFP4) in both directions.
struct Whole {
  float encode, decode;
};

// `stored` holds the bits of the scale type; values are multiplied by `operand`, or divided.
struct Scale {
  u32 stored;
  float operand;
};

// How a format's scales come about, fixed by template: power-of-two bytes by integers alone, or
// fp32 arithmetic whose result values are multiplied by or divided by.
enum Kind { kPower, kMultiplied, kDivided };

__device__ __forceinline__ bool is_power(const Format& format) {
  return format.scale_type != kE4m3 && format.rule <= kRceil;
}

// E8M0 byte of the power-of-two scale, from the bits of amax = m 2^e, 1 <= m < 2: the exponent is
// floor e, ceil e + [m > 1], even e + [m >= 2 - 2^-(M + 1)], rceil e + [m > mu], all less E, for
// maximum = mu 2^E. Infinity counts as 2^128, past every scale under rceil.
__device__ __forceinline__ u32 power_byte(float amax, const Format& format) {
  const u32 given = __float_as_uint(amax) & ~kSign;
  if (given == 0u) return u32(format.minimum_byte);
  if (given > kInfinity) return 255u;
  if (given == kInfinity) return format.rule == kRceil ? 254u : u32(255 - format.largest_exponent);
  const bool small = given < 0x800000u;  // subnormal: moved up, exactly
  const u32 magnitude = small ? __float_as_uint(__fmul_rn(amax, power_of_two(24))) : given;
  const int up = (magnitude & 0x7FFFFFu) > format.round_up_past;
  const int byte = int(magnitude >> 23) - (small ? 24 : 0) - format.largest_exponent + up;
  return u32(max(format.minimum_byte, min(254, byte)));
}

// The value of stored bits, exact.
__device__ __forceinline__ float scale_value(u32 stored, int type) {
  if (type == kE8m0) return decode_e8m0(stored);
  if (type == kE4m3) return decode<element::e4m3>(stored);
  if (type == kBf16) return to_float(bf16{u16(stored)});
  if (type == kFp16) return to_float(fp16{u16(stored)});
  return __uint_as_float(stored);
}

// The bits of a scale, rounded to its type and saturated.
__device__ __forceinline__ u32 stored_scale(float value, int type) {
  if (type == kE8m0) return __float_as_uint(value) >> 23;  // of a power of two; 2^-127 is byte 0
  if (type == kE4m3) return encode<element::e4m3, kNearestEven>(value);
  if (type == kBf16) {
    const u16 bits = from_float<bf16>(value).bits;
    return bits == 0x7F80u ? 0x7F7Fu : bits;
  }
  if (type == kFp16) {
    const u16 bits = from_float<fp16>(value).bits;
    return bits == 0x7C00u ? 0x7BFFu : bits;
  }
  return __float_as_uint(value);
}

__device__ __forceinline__ float at_most_largest(float x) {
  return x > kLargestFloat ? kLargestFloat : x;
}

// The whole tensor's scale from its amax, or around a decode scale that is given.
__device__ __forceinline__ Whole given_whole(float decode) {
  return {at_most_largest(divide(1.0f, decode)), decode};
}
__device__ __noinline__ Whole whole_of(float amax, const Format& format) {
  const float largest = format.maximum * 448.0f;
  amax = at_most_largest(amax);
  if (format.recipe == kTorchao || format.recipe == kModelopt)
    return given_whole(amax == 0.0f ? 1.0f : fmaxf(divide(amax, largest), kLeastFloat));
  if (amax == 0.0f && format.recipe != kTe) return {1.0f, 1.0f};
  const float encode = at_most_largest(divide(largest, amax));
  return {encode, divide(1.0f, encode)};
}

// E4M3 block scale under the whole tensor's scale, and what values are multiplied by (divided by,
// under modelopt); every operation is one of fp32.
template <Kind K>
__device__ __forceinline__ u32 e4m3_scale(float amax, const Format& format, Whole whole) {
  const float maximum = format.maximum;
  float scale;
  if (K == kDivided) {
    scale = fmaxf(divide(amax, __fmul_rn(maximum, whole.decode)), power_of_two(-9));
  } else if (format.recipe == kTe) {
    scale = __fmul_rn(amax, __fmul_rn(whole.encode, divide(1.0f, maximum)));
  } else if (format.recipe == kFlashinfer) {
    scale = __fmul_rn(whole.encode, __fmul_rn(amax, divide(1.0f, maximum)));
  } else {
    scale = divide(amax, maximum);
    if (format.recipe == kTorchao) scale = fmaxf(divide(scale, whole.decode), power_of_two(-6));
    else scale = __fmul_rn(scale, whole.encode);
  }
  return stored_scale(scale, kE4m3);
}
template <Kind K>
__device__ __forceinline__ float e4m3_operand(u32 stored, const Format& format, Whole whole) {
  const float scale = decode<element::e4m3>(stored), product = __fmul_rn(scale, whole.decode);
  if (K == kDivided) return scale == 0.0f ? infinity() : product;
  if (scale == 0.0f && format.recipe != kTe) return 0.0f;
  if (format.recipe == kTorchao) return divide(divide(1.0f, whole.decode), scale);
  return at_most_largest(divide(1.0f, product));
}

// The scale of a block by integers: formats with E8M0 scales.
__device__ __forceinline__ Scale power_scale(float amax, const Format& format) {
  const bool zero = amax == 0.0f;
  if (amax < format.amax_floor) amax = format.amax_floor;
  u32 stored = power_byte(amax, format);
  if (zero && format.has_zero_scale) stored = stored_scale(format.zero_scale, kE8m0);
  return {stored, power_of_two(127 - int(stored))};
}

// maximum / amax; kInvert rounds 1 / amax first.
__device__ __forceinline__ float inverse_of(float amax, const Format& format) {
  if (format.rule != kInvert) return at_most_largest(divide(format.maximum, amax));
  return at_most_largest(__fmul_rn(format.maximum, divide(1.0f, amax)));
}

// The scale of a block in fp32 arithmetic: all other formats. A scale that divides is never a power
// of two by rule.
template <Kind K>
__device__ __forceinline__ Scale computed_scale(float amax, const Format& format, Whole whole) {
  const bool zero = amax == 0.0f, power = K != kDivided && is_power(format);
  if (!power) amax = at_most_largest(amax);
  if (amax < format.amax_floor) amax = format.amax_floor;
  if (format.scale_type == kE4m3) {
    u32 stored = e4m3_scale<K>(amax, format, whole);
    if (zero && format.has_zero_scale) stored = stored_scale(format.zero_scale, kE4m3);
    return {stored, e4m3_operand<K>(stored, format, whole)};
  }
  float value;
  if (power) {
    value = decode_e8m0(power_byte(amax, format));
  } else if (format.rule == kMultiply) {
    value = __fmul_rn(amax, divide(1.0f, format.maximum));
  } else if (format.rule == kInvert) {
    value = divide(1.0f, inverse_of(amax, format));
  } else {
    value = divide(amax, format.maximum);
  }
  if (zero && format.has_zero_scale) value = format.zero_scale;
  const u32 stored = stored_scale(value, format.scale_type);
  if (K != kDivided && format.apply == kByInverse && !power)
    return {stored, amax == 0.0f ? 0.0f : inverse_of(amax, format)};
  value = scale_value(stored, format.scale_type);
  if (K == kDivided) return {stored, value == 0.0f ? infinity() : value};
  return {stored, value == 0.0f ? 0.0f : at_most_largest(divide(1.0f, value))};
}

// The scale of a block whose magnitudes reach amax, Inf only where the format saturates.
template <Kind K>
__device__ __forceinline__ Scale scale_of(float amax, const Format& format, Whole whole) {
  if constexpr (K == kPower) return power_scale(amax, format);
  else return computed_scale<K>(amax, format, whole);
}

// The scale that marks a block as not a number.
__device__ __forceinline__ u32 nan_scale(int type) {
  if (type == kE8m0) return 255u;
  if (type == kE4m3) return 0x7Fu;
  if (type == kBf16) return 0x7FC0u;
  if (type == kFp16) return 0x7E00u;
  return kQuietNan;
}

__device__ __forceinline__ void put_scale(void* scales, i64 index, u32 stored, int type) {
  if (type <= kE4m3) static_cast<u8*>(scales)[index] = u8(stored);
  else if (type == kFp32) static_cast<u32*>(scales)[index] = stored;
  else static_cast<u16*>(scales)[index] = u16(stored);
}
__device__ __forceinline__ u32 get_scale(const void* scales, i64 index, int type) {
  if (type <= kE4m3) return static_cast<const u8*>(scales)[index];
  if (type == kFp32) return static_cast<const u32*>(scales)[index];
  return static_cast<const u16*>(scales)[index];
}

// Values whose type, kFp32, kBf16 or kFp16, is known when a kernel runs.
__device__ __forceinline__ float get_float(const void* from, Offset i, int type) {
  if (type == kBf16) return to_float(static_cast<const bf16*>(from)[i]);
  if (type == kFp16) return to_float(static_cast<const fp16*>(from)[i]);
  return static_cast<const float*>(from)[i];
}
__device__ __forceinline__ void put_float(void* to, Offset i, float value, int type) {
  if (type == kBf16) static_cast<bf16*>(to)[i] = from_float<bf16>(value);
  else if (type == kFp16) static_cast<fp16*>(to)[i] = from_float<fp16>(value);
  else static_cast<float*>(to)[i] = value;
}
