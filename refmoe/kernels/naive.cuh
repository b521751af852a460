// One value at a time, with every choice made at run time: what the naive kernels share.
#pragma once
#include "codes.cuh"

// Elements in the order of Format::element.
enum class Elements { e2m1, e2m3, e3m2, e4m3, e5m2, int8, int4, mxint8 };

template <Rounding R> __device__ __noinline__ u32 encode_as(int code_element, float value) {
  switch (Elements(code_element)) {
    case Elements::e2m1: return encode<element::e2m1, R>(value);
    case Elements::e2m3: return encode<element::e2m3, R>(value);
    case Elements::e3m2: return encode<element::e3m2, R>(value);
    case Elements::e4m3: return encode<element::e4m3, R>(value);
    case Elements::e5m2: return encode<element::e5m2, R>(value);
    case Elements::int8: return encode<element::int8, R>(value);
    case Elements::int4: return encode<element::int4, R>(value);
    default: return encode<element::mxint8, R>(value);
  }
}
__device__ __noinline__ float decode_as(int code_element, u32 code) {
  switch (Elements(code_element)) {
    case Elements::e2m1: return decode<element::e2m1>(code);
    case Elements::e2m3: return decode<element::e2m3>(code);
    case Elements::e3m2: return decode<element::e3m2>(code);
    case Elements::e4m3: return decode<element::e4m3>(code);
    case Elements::e5m2: return decode<element::e5m2>(code);
    case Elements::int8: return decode<element::int8>(code);
    case Elements::int4: return decode<element::int4>(code);
    default: return decode<element::mxint8>(code);
  }
}

// The bits of the magnitude that value i counts for in its block's amax.
__device__ __forceinline__ u32 magnitude_at(const void* x, i64 i, int type, const Format& format) {
  const u32 magnitude = __float_as_uint(get_float(x, i, type)) & ~kSign;
  return magnitude > kInfinity && format.nonfinite == kSaturate ? 0u : magnitude;
}

// The amax of one block.
__device__ __noinline__ u32 amax_at(const void* x, const Place& place, int type,
                                    const Format& format, const Shape& shape) {
  u32 amax = 0;
#pragma unroll 1
  for (i64 r = 0; r < place.rows; ++r)
#pragma unroll 1
    for (i64 c = 0; c < place.columns; ++c)
      amax = max(amax, magnitude_at(x, place.start + r * shape.columns + c, type, format));
  return amax;
}

__device__ __noinline__ Chosen choose_scale_as(u32 amax, const Format& format, Whole whole) {
  if (format.kind == kPower) return choose_scale<kPower>(amax, format, whole);
  if (format.kind == kMultiplied) return choose_scale<kMultiplied>(amax, format, whole);
  return choose_scale<kDivided>(amax, format, whole);
}

// The code of value i under the scale of its block.
template <Rounding R>
__device__ __forceinline__ u8 code_at(const void* x, i64 i, int type, const Chosen& chosen,
                                      const Format& format) {
  if (chosen.broken) return 0;
  const float value = get_float(x, i, type), operand = chosen.scale.operand;
  const float product = value == 0.0f ? value : __fmul_rn(value, operand);
  const float scaled = format.kind == kDivided ? divide(value, operand) : product;
  const u32 code = encode_as<R>(format.element, scaled);
  const bool is_float = format.element <= int(Elements::e5m2);
  const u32 negative_zero = format.element == int(Elements::e2m1)   ? 8u
                            : format.element <= int(Elements::e3m2) ? 32u
                                                                    : 128u;
  return is_float && code == negative_zero && !format.keep_negative_zero ? 0 : u8(code);
}
