// Quantising values that lie in registers, a block spread over neighbouring lanes.
#pragma once
#include "blocks.cuh"
#include "packed.cuh"

// The scale of a block with this amax. A block that is not finite becomes NaN, its codes 0; one
// that is `plain` has no Inf, meets none (in NVFP4 after torchao it may), and has a scale that is
// safe to divide by in short, through 1 / scale.
struct Chosen {
  Scale scale;
  float inverse;
  bool broken, plain;
};
template <Kind K>
__device__ __forceinline__ Chosen choose_scale(u32 amax, const Format& format, Whole whole) {
  if (amax >= kInfinity && format.nonfinite != kSaturate)
    return {{nan_scale(format.scale_type), 0.0f}, 0.0f, true, false};
  const Scale scale = scale_of<K>(__uint_as_float(amax), format, whole);
  if (K == kPower) return {scale, 0.0f, false, amax < kInfinity};
  if (K == kMultiplied) return {scale, 0.0f, false, amax < kInfinity && scale.operand < infinity()};
  const bool safe = scale.operand > power_of_two(-80) && scale.operand < power_of_two(80) &&
                    __uint_as_float(amax) * power_of_two(-40) < scale.operand;
  return {scale, divide(1.0f, scale.operand), false, amax < kInfinity && safe};
}

// x / s from r = 1 / s, correctly rounded: a quotient within two ulp, and by its exact remainder
// again (Markstein 1990). Once is enough where x has at most 11 significant bits (Short): so says
// every such x over every s. Where a remainder would underflow the quotient is below any code.
template <bool Short> __device__ __forceinline__ float quotient(float x, float s, float r) {
  float q = __fmul_rn(x, r);
#pragma unroll
  for (int step = Short ? 1 : 0; step < 2; ++step)
    q = __fmaf_rn(-__fmaf_rn(q, s, -x), r, q);
  return q;
}

// The codes of N values the long way: any rounding, any value, any scale.
template <class Element, Rounding R, Kind K>
__device__ __noinline__ u32 long_code(float value, float operand) {
  const float product = value == 0.0f ? value : __fmul_rn(value, operand);
  const float scaled = K == kDivided ? divide(value, operand) : product;
  return encode<Element, R>(scaled) & 255u;
}
template <class T, class Element, Rounding R, Kind K, int N>
__device__ __noinline__ Held<u8, N> long_codes(Held<T, N> x, float operand) {
  Held<u8, N> codes{};
#pragma unroll
  for (int i = 0; i < N; ++i)
    codes.words[i / 4] |= long_code<Element, R, K>(float_at(x, i), operand) << 8 * (i % 4);
  return codes;
}

// The same of finite values under a plain scale, rounded to nearest even.
template <class T, class Element, Kind K, int N>
__device__ __forceinline__ Held<u8, N> short_codes(const Held<T, N>& x, float operand,
                                                   float inverse) {
  constexpr bool kShort = sizeof(T) == 2 && K == kPower;
  constexpr bool kPairs = is_same<T, bf16> && K == kPower && is_same<Element, element::e2m1>;
  Held<u8, N> codes{};
#pragma unroll
  for (int w = 0; w < codes.kWords; ++w) {
    if constexpr (kPairs && N % 4 == 0) {
      const u32 power = __float_as_uint(operand) >> 16;
      codes.words[w] = encode_e2m1_pairs(x.words[2 * w], x.words[2 * w + 1], power | power << 16);
    } else {
      float scaled[4] = {};
#pragma unroll
      for (int i = 0; i < 4 && i < N; ++i) {
        const float value = float_at(x, 4 * w + i);
        scaled[i] = K == kDivided ? quotient<sizeof(T) == 2>(value, operand, inverse)
                                  : __fmul_rn(value, operand);
      }
      codes.words[w] = N < 4 ? encode_finite<Element, kShort>(scaled[0])
                             : encode_four<Element, kShort>(scaled);
    }
  }
  return codes;
}

// Codes as a block keeps them: negative zero where the format has it.
template <class Element, int N>
__device__ __forceinline__ void settle_zeros(Held<u8, N>& codes, const Format& format) {
  if (format.keep_negative_zero) return;
#pragma unroll
  for (int w = 0; w < codes.kWords; ++w)
    codes.words[w] = without_negative_zero<Element>(codes.words[w]);
}

// The codes of N values under the scale that was chosen for their block; `missing`: NaN among them.
template <class T, class Element, Rounding R, Kind K, int N>
__device__ __forceinline__ Held<u8, N> codes_of(const Held<T, N>& x, const Chosen& chosen,
                                                  const Format& format, bool missing) {
  Held<u8, N> codes{};
  if (chosen.broken) return codes;
  if (R == kNearestEven && chosen.plain && !missing)
    codes = short_codes<T, Element, K>(x, chosen.scale.operand, chosen.inverse);
  else
    codes = long_codes<T, Element, R, K>(x, chosen.scale.operand);
  settle_zeros<Element>(codes, format);
  return codes;
}

// The first of U becomes the second, and so on: a loop that takes the first each time is compiled
// once and still finds its values in registers.
template <class V, int U> __device__ __forceinline__ void move_up(V (&values)[U]) {
#pragma unroll
  for (int u = 0; u + 1 < U; ++u) values[u] = values[u + 1];
}

// U vectors a lane, each part of a block on `lanes` neighbouring lanes, to codes, which `take` gets
// with the vector's number, and scales. Of the U blocks that a lane touches S neighbours have the
// scale worked out by one each, S <= lanes: stored[s] is that of vector s * S + lane % S.
// The vectors are used up.
template <class T, class Element, Rounding R, Kind K, int S, int U, int N, class Take>
__device__ __forceinline__ void quantize_lanes(Held<T, N> (&x)[U], int lanes, const Format& format,
                                               Whole whole, u32 (&stored)[U / S], Take take) {
  u32 amax[U];
  bool missing = false;
#pragma unroll
  for (int u = 0; u < U; ++u) amax[u] = amax_of(x[u], format.nonfinite, missing);
  maximum_over(amax, lanes);
  const int lane = int(threadIdx.x % 32), self = lane % S;
  Chosen own[U / S];
  bool plain = R == kNearestEven && !missing;
#pragma unroll 1
  for (int s = 0; s < U / S; ++s) {
    u32 mine = 0;
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (u == s * S + self) mine = amax[u];
    const Chosen chosen = choose_scale<K>(mine, format, whole);
    plain = plain && chosen.plain;
#pragma unroll
    for (int i = 0; i < U / S; ++i)
      if (i == s) own[i] = chosen, stored[i] = chosen.scale.stored;
  }
  const bool all_plain = __all_sync(kAllLanes, plain);
#pragma unroll 1
  for (int u = 0; u < U; ++u) {
    const int from = lane - self + u % S;
    const float operand = __shfl_sync(kAllLanes, own[0].scale.operand, from);
    const float inverse = K == kDivided ? __shfl_sync(kAllLanes, own[0].inverse, from) : 0.0f;
    Held<u8, N> codes;
    if (all_plain) {
      codes = short_codes<T, Element, K>(x[0], operand, inverse);
    } else {
      const bool broken = __shfl_sync(kAllLanes, int(own[0].broken), from);
      codes = long_codes<T, Element, R, K>(x[0], operand);
      if (broken) codes = {};
    }
    settle_zeros<Element>(codes, format);
    take(u, codes);
    move_up(x);
    if (u % S == S - 1) move_up(own);
  }
}
