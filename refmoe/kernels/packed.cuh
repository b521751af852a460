// Two or four values in one register: by the conversion units and packed arithmetic where a GPU has
// them, else (and on a CPU) the same bits one by one.
#pragma once
#include "formats.cuh"

#if !defined(REFMOE_EMULATED) && __CUDA_ARCH__ >= 890
constexpr bool kConvertsToBytes = true;  // units that make FP8 codes
#else
constexpr bool kConvertsToBytes = false;
#endif

// exact rounded to T once: what fp32 loses of it is jammed into the last bit, where the second
// rounding still sees it.
template <class T> __device__ __forceinline__ T round_once(double exact) {
  const float near = float(exact);
  u32 bits = __float_as_uint(near);
  if (sizeof(T) < 4 && is_finite(near) && double(near) != exact && !(bits & 1u))
    bits += fabs(double(near)) < fabs(exact) ? 1u : ~0u;
  return from_float<T>(__uint_as_float(bits));
}

#ifdef REFMOE_EMULATED

template <class T> __device__ __forceinline__ u32 round_pair(float low, float high) {
  return u32(from_float<T>(low).bits) | u32(from_float<T>(high).bits) << 16;
}
// a * b + c on pairs of bf16, each rounded once.
__device__ __forceinline__ u32 fma_pairs(u32 a, u32 b, u32 c) {
  u32 made = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const auto half = [&](u32 pair) { return double(to_float(bf16{u16(pair >> shift)})); };
    made |= u32(round_once<bf16>(half(a) * half(b) + half(c)).bits) << shift;
  }
  return made;
}

#else

// (low, high) rounded to pairs of a 16-bit float; every NaN becomes the same one.
template <class T> __device__ __forceinline__ u32 round_pair(float low, float high);
template <> __device__ __forceinline__ u32 round_pair<bf16>(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <> __device__ __forceinline__ u32 round_pair<fp16>(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ u32 fma_pairs(u32 a, u32 b, u32 c) {
  u32 made;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(made) : "r"(a), "r"(b), "r"(c));
  return made;
}

#endif

// N values rounded to T.
template <class T, int N>
__device__ __forceinline__ Held<T, N> round_all(const float (&values)[N]) {
  Held<T, N> made;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < N; ++i) made.words[i] = __float_as_uint(values[i]);
  } else if constexpr (N == 1) {
    made.words[0] = from_float<T>(values[0]).bits;
  } else {
#pragma unroll
    for (int w = 0; w < N / 2; ++w)
      made.words[w] = round_pair<T>(values[2 * w], values[2 * w + 1]);
  }
  return made;
}

// The low bytes of four words.
__device__ __forceinline__ u32 low_bytes(u32 a, u32 b, u32 c, u32 d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}
__device__ __forceinline__ u32 low_bytes(const float (&x)[4]) {
  return low_bytes(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                   __float_as_uint(x[3]));
}
// The high bytes of four words: signs of floats.
__device__ __forceinline__ u32 high_bytes(const float (&x)[4]) {
  return __byte_perm(__byte_perm(__float_as_uint(x[0]), __float_as_uint(x[1]), 0x0073),
                     __byte_perm(__float_as_uint(x[2]), __float_as_uint(x[3]), 0x0073), 0x5410);
}

// Two FP8 codes of finite values, nearest even, saturated.
template <class Format> __device__ __forceinline__ u32 convert_to_bytes(float low, float high) {
  u16 codes = 0;
#if !defined(REFMOE_EMULATED) && __CUDA_ARCH__ >= 890
  if constexpr (Format::kMantissa == 3)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  else asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
#endif
  return codes;
}

// The values of two FP8 codes.
template <class Format>
__device__ __forceinline__ void convert_from_bytes(u32 codes, float& low, float& high) {
#if !defined(REFMOE_EMULATED) && __CUDA_ARCH__ >= 890
  u32 halves;
  if constexpr (Format::kMantissa == 3)
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(u16(codes)));
  else asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(u16(codes)));
  asm("cvt.f32.f16 %0, %1;" : "=f"(low) : "h"(u16(halves)));
  asm("cvt.f32.f16 %0, %1;" : "=f"(high) : "h"(u16(halves >> 16)));
#endif
}

// The values of N codes, N a multiple of 4.
template <class Format, int N>
__device__ __forceinline__ void decode_all(const Held<u8, N>& codes, float (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const u32 pair = codes.words[i / 4] >> 8 * (i % 4);
    if constexpr (Format::kBits == 8 && !Format::kInteger && kConvertsToBytes) {
      convert_from_bytes<Format>(pair, values[i], values[i + 1]);
    } else {
      values[i] = decode<Format>(pair & 255u);
      values[i + 1] = decode<Format>(pair >> 8 & 255u);
    }
  }
}

// E2M1 has the values 0 to 2 in steps of 1/2, to 4 in steps of 1, to 6 in steps of 2: the code of
// a magnitude a is the integer next to min(2a, a + 2, a / 2 + 4, 7), ties to even. Each sum with
// 1.5 * 2^23 rounds once, to an integer in the last bits; the least sum is the sum of the least.
__device__ __forceinline__ float e2m1_code(float magnitude) {
  constexpr float kUnit = 12582912.0f;
  const float fine = __fmaf_rn(magnitude, 2.0f, kUnit), middle = __fadd_rn(magnitude, kUnit + 2.0f);
  const float coarse = __fmaf_rn(magnitude, 0.5f, kUnit + 4.0f);
  return fminf(fminf(fine, middle), fminf(coarse, kUnit + 7.0f));
}

// Four codes of finite values, nearest even, saturated: `encode_finite`, four at a time.
template <class Format, bool Short>
__device__ __forceinline__ u32 encode_four(const float (&x)[4]) {
  if constexpr (Format::kBits == 8 && !Format::kInteger && kConvertsToBytes) {
    return convert_to_bytes<Format>(x[0], x[1]) | convert_to_bytes<Format>(x[2], x[3]) << 16;
  } else if constexpr (Format::kBits == 4 && !Format::kInteger) {
    const float codes[4] = {e2m1_code(fabsf(x[0])), e2m1_code(fabsf(x[1])), e2m1_code(fabsf(x[2])),
                            e2m1_code(fabsf(x[3]))};
    return (low_bytes(codes) & 0x07070707u) | (high_bytes(x) >> 4 & 0x08080808u);
  } else {
    return low_bytes(encode_finite<Format, Short>(x[0]), encode_finite<Format, Short>(x[1]),
                     encode_finite<Format, Short>(x[2]), encode_finite<Format, Short>(x[3]));
  }
}

// E2M1 codes of four bf16 in two pairs, each times the same power of two (a bf16, twice): the
// product is exact or far below the least code. 192 is 1.5 * 2^7, whose last bit is 1.
__device__ __forceinline__ u32 encode_e2m1_pairs(u32 low, u32 high, u32 power) {
  const u32 pairs[2] = {low, high};
  u32 codes[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const u32 magnitude = fma_pairs(pairs[i] & 0x7FFF7FFFu, power, 0x80008000u);
    const u32 fine = fma_pairs(magnitude, 0x40004000u, 0x43404340u);    // 2 a + 192
    const u32 middle = fma_pairs(magnitude, 0x3F803F80u, 0x43424342u);  // a + 194
    const u32 coarse = fma_pairs(magnitude, 0x3F003F00u, 0x43444344u);  // a / 2 + 196
    codes[i] = __vminu2(__vminu2(fine, middle), __vminu2(coarse, 0x43474347u));
  }
  return (__byte_perm(codes[0], codes[1], 0x6420) & 0x07070707u) |
         (__byte_perm(low, high, 0x7531) >> 4 & 0x08080808u);
}

// Four codes, negative zeros among them made positive.
template <class Format> __device__ __forceinline__ u32 without_negative_zero(u32 codes) {
  if constexpr (Format::kInteger) return codes;
  constexpr u32 kEach = 0x01010101u, kSigns = kEach << (Format::kBits - 1);
  const u32 magnitudes = codes & (kSigns - kEach);
  return magnitudes | (codes & (magnitudes + (kSigns - kEach)) & kSigns);
}
