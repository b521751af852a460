// Element formats: a code's value and a value's code, bit by bit.
#pragma once
#include "rounding.cuh"

// Sign, exponent, kMantissa fraction bits. kMaximum is the code of the largest value, -1 stands
// for a code that the format lacks, kNanStandIn is what a NaN encodes as.
template <int Bits, int Mantissa, int Bias, u32 Maximum, int Infinity, int Nan, u32 NanStandIn>
struct FloatFormat {
  static constexpr bool kInteger = false;
  static constexpr int kBits = Bits, kMantissa = Mantissa, kBias = Bias;
  static constexpr u32 kMaximum = Maximum, kNanStandIn = NanStandIn;
  static constexpr int kInfinity = Infinity, kNan = Nan;
};
namespace element {
struct e2m1 : FloatFormat<4, 1, 1, 0x7, -1, -1, 0x7> {};
struct e2m3 : FloatFormat<6, 3, 1, 0x1F, -1, -1, 0x1F> {};
struct e3m2 : FloatFormat<6, 2, 3, 0x1F, -1, -1, 0x1F> {};
struct e4m3 : FloatFormat<8, 3, 7, 0x7E, -1, 0x7F, 0x7F> {};
struct e5m2 : FloatFormat<8, 2, 15, 0x7B, 0x7C, 0x7F, 0x7F> {};
}  // namespace element

// Two's complement in units of 2^-kMantissa; encoding reaches down to kMinimum.
template <int Bits, int Mantissa, int Minimum> struct IntegerFormat {
  static constexpr bool kInteger = true;
  static constexpr int kBits = Bits, kMantissa = Mantissa, kMinimum = Minimum;
  static constexpr int kMaximum = (1 << (Bits - 1)) - 1;
};
namespace element {
struct int8 : IntegerFormat<8, 0, -128> {};
struct int4 : IntegerFormat<4, 0, -8> {};
struct mxint8 : IntegerFormat<8, 6, -127> {};
}  // namespace element

// The code of the representable value next to `value`, saturating; two's complement in the low
// byte for integers, sign and magnitude otherwise. A NaN gets its stand-in, 0 in integers.
template <class Format, Rounding R> __device__ __forceinline__ u32 encode(float value) {
  const u32 magnitude = __float_as_uint(value) & ~kSign;
  const u32 sign = __float_as_uint(value) >> 31;
  const Split parts = split(magnitude);
  if constexpr (Format::kInteger) {
    // One unit is 2^-kMantissa: significand * 2^(field - 150 + kMantissa) units.
    const int drop = 150 - Format::kMantissa - int(parts.field);
    int code = magnitude >= (127u + 24u) << 23 || drop < 0
                   ? 1 << 24
                   : int(shift_right<R>(parts.significand, min(drop, 31)));
    code = sign ? -code : code;
    code = max(Format::kMinimum, min(Format::kMaximum, code));
    return magnitude > kInfinity ? 0u : u32(code);
  } else {
    constexpr u32 kLeastField = 128 - Format::kBias;  // of the least normal value
    const bool subnormal = parts.field < kLeastField;
    const u32 drop = 23 - Format::kMantissa + (subnormal ? kLeastField - parts.field : 0u);
    const u32 rebias = subnormal ? 0u : (parts.field - kLeastField) << Format::kMantissa;
    u32 code = shift_right<R>(parts.significand, min(drop, 31u)) + rebias;
    code = min(code, Format::kMaximum) | sign << (Format::kBits - 1);
    return magnitude > kInfinity ? Format::kNanStandIn : code;
  }
}

// The code of a finite value, rounded to nearest even and saturated: `encode` without its cases.
// With Short the value has at most 11 significant bits (a 16-bit float times a power of two):
// then it may be moved to where fp32's own subnormals are those of the format, exactly unless it
// rounds to 0 anyway.
template <class Format, bool Short> __device__ __forceinline__ u32 encode_finite(float value) {
  if constexpr (Format::kInteger) {
    // 1.5 * 2^23 more, the unit is fp32's last bit; the low byte is the number.
    const float units = __fmul_rn(value, power_of_two(Format::kMantissa));
    const float held = fmaxf(fminf(units, float(Format::kMaximum)), float(Format::kMinimum));
    return __float_as_uint(__fadd_rn(held, 12582912.0f)) & 0xFFu;
  } else {
    constexpr u32 kShift = 23 - Format::kMantissa;
    constexpr u32 kHalf = (1u << kShift) / 2u;
    const u32 sign = (__float_as_uint(value) >> (32 - Format::kBits)) & 1u << (Format::kBits - 1);
    u32 code;
    if constexpr (Short) {
      const float moved_value = __fmul_rn(value, power_of_two(Format::kBias - 127));
      const u32 moved = __float_as_uint(moved_value) & ~kSign;
      code = (moved + (kHalf - 1u) + (moved >> kShift & 1u)) >> kShift;
    } else {
      constexpr u32 kLeastField = 128 - Format::kBias;
      const u32 magnitude = __float_as_uint(value) & ~kSign;
      const float anchor = __uint_as_float((kLeastField + kShift) << 23);
      const u32 small = __float_as_uint(__uint_as_float(magnitude) + anchor) -
                        __float_as_uint(anchor);
      const u32 normal = ((magnitude + (kHalf - 1u) + (magnitude >> kShift & 1u)) >> kShift) -
                         ((kLeastField - 1u) << Format::kMantissa);
      code = magnitude < kLeastField << 23 ? small : normal;
    }
    return min(code, Format::kMaximum) | sign;
  }
}

// The value of a code; integer codes are sign extended from kBits.
template <class Format> __device__ __forceinline__ float decode(u32 code) {
  if constexpr (Format::kInteger) {
    const int whole = int(code << (32 - Format::kBits)) >> (32 - Format::kBits);
    return float(whole) * power_of_two(-Format::kMantissa);
  } else {
    // As fp32's own fields a code is its value times 2^(kBias - 127), subnormals included.
    constexpr u32 kSignBit = 1u << (Format::kBits - 1);
    const u32 magnitude = code & (kSignBit - 1u);
    const u32 sign = (code & kSignBit) << (32 - Format::kBits);
    const float moved = __uint_as_float(magnitude << (23 - Format::kMantissa));
    u32 bits = __float_as_uint(__fmul_rn(moved, power_of_two(127 - Format::kBias)));
    if (Format::kNan >= 0 && magnitude > Format::kMaximum)
      bits = int(magnitude) == Format::kInfinity ? kInfinity : kQuietNan;
    return __uint_as_float(bits | sign);
  }
}

// E8M0: byte b is 2^(b - 127), byte 0 too; 255 is NaN.
__device__ __forceinline__ float decode_e8m0(u32 byte) {
  return byte == 255u ? quiet_nan() : power_of_two(int(byte) - 127);
}
