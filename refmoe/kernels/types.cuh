// Names of fixed width, the plain float types as bits, and vectors of up to 16 bytes.
#pragma once

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;
using Offset = u64;  // of an element in a tensor; narrowed, small tensors show who goes without

constexpr u32 kSign = 0x80000000u;
constexpr u32 kInfinity = 0x7F800000u;
constexpr u32 kQuietNan = 0x7FC00000u;
constexpr u32 kAllLanes = 0xFFFFFFFFu;

struct bf16 { u16 bits; };
struct fp16 { u16 bits; };
using fp32 = float;

#ifdef REFMOE_EMULATED
#define DYNAMIC_SHARED(name) char* name = simt::dynamic_shared
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) char name[]
#endif

__device__ __forceinline__ float infinity() { return __uint_as_float(kInfinity); }
__device__ __forceinline__ float quiet_nan() { return __uint_as_float(kQuietNan); }
__device__ __forceinline__ bool is_nan(float x) {
  return (__float_as_uint(x) & ~kSign) > kInfinity;
}
__device__ __forceinline__ bool is_finite(float x) {
  return (__float_as_uint(x) & ~kSign) < kInfinity;
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// The fields move up to those of fp32; 2^112 = 2^(127 - 15) rebiases, subnormals included.
__device__ __forceinline__ float to_float(fp16 x) {
  const u32 magnitude = x.bits & 0x7FFFu;
  const float scaled = __uint_as_float(magnitude << 13) * __uint_as_float((127u + 112u) << 23);
  const u32 bits = magnitude >= 0x7C00u ? kInfinity | (magnitude & 0x3FFu) << 13
                                        : __float_as_uint(scaled);
  return __uint_as_float(bits | u32(x.bits & 0x8000u) << 16);
}

// Round to nearest even; a NaN becomes the quiet NaN of its sign.
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  const u32 bits = __float_as_uint(x);
  if (is_nan(x)) return {u16(bits >> 16 | 0x40u)};
  return {u16((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}
template <> __device__ __forceinline__ fp16 from_float<fp16>(float x) {
  const u32 sign = __float_as_uint(x) >> 16 & 0x8000u;
  const u32 magnitude = __float_as_uint(x) & ~kSign;
  u32 code;
  if (magnitude > kInfinity) {
    code = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) {  // 65520: half a step past the largest value
    code = 0x7C00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14 the step is 2^-24, as it is past 0.5
    code = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    code = (magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {u16(sign | code)};
}

template <class A, class B> constexpr bool is_same = false;
template <class A> constexpr bool is_same<A, A> = true;

// N values that one instruction moves; N * sizeof(T) is 1, 2, 4, 8 or 16 bytes.
template <class T, int N> struct alignas(N * sizeof(T)) Vector { T at[N]; };

template <class T, int N>
__device__ __forceinline__ Vector<T, N> load(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}
template <class T, int N>
__device__ __forceinline__ void store(T* to, const Vector<T, N>& values) {
  *reinterpret_cast<Vector<T, N>*>(to) = values;
}

// N values in whole registers, which the compiler does not take apart as it does small members.
template <class T, int N> struct Held {
  static constexpr int kBytes = N * int(sizeof(T)), kWords = (kBytes + 3) / 4;
  u32 words[kWords];
  // Value i of this type, its bits.
  __device__ __forceinline__ T at(int i) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(words[i]);
    else if constexpr (sizeof(T) == 2) return {u16(words[i / 2] >> 16 * (i % 2))};
    else return T(words[i / 4] >> 8 * (i % 4));
  }
};
template <class T, int N> __device__ __forceinline__ Held<T, N> hold(const T* from) {
  Held<T, N> held;
  if constexpr (Held<T, N>::kBytes % 4 == 0) {
    const auto loaded = load<u32, Held<T, N>::kWords>(reinterpret_cast<const u32*>(from));
#pragma unroll
    for (int w = 0; w < Held<T, N>::kWords; ++w) held.words[w] = loaded.at[w];
  } else if constexpr (sizeof(T) == 2) {
    held.words[0] = reinterpret_cast<const u16*>(from)[0];
  } else {
    held.words[0] = reinterpret_cast<const u8*>(from)[0];
  }
  return held;
}
template <class T, int N>
__device__ __forceinline__ void put(T* to, const Held<T, N>& held) {
  if constexpr (Held<T, N>::kBytes % 4 == 0) {
    Vector<u32, Held<T, N>::kWords> stored;
#pragma unroll
    for (int w = 0; w < Held<T, N>::kWords; ++w) stored.at[w] = held.words[w];
    store(reinterpret_cast<u32*>(to), stored);
  } else {
    *to = held.at(0);
  }
}
// Value i as fp32.
template <class T, int N> __device__ __forceinline__ float float_at(const Held<T, N>& held, int i) {
  if constexpr (is_same<T, bf16>)
    return __uint_as_float(i % 2 ? held.words[i / 2] & 0xFFFF0000u : held.words[i / 2] << 16);
  else return to_float(held.at(i));
}
