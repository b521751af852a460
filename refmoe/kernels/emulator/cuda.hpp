// What CUDA C++ spells for a kernel, in terms of simt.hpp.
#pragma once
#include "asynchronous.hpp"
#include "matrix.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define REFMOE_EMULATED 1

template <class T> struct alignas(2 * sizeof(T)) Pair { T x, y; };
template <class T> struct alignas(4 * sizeof(T)) Quad { T x, y, z, w; };
using uint2 = Pair<unsigned>; using uint4 = Quad<unsigned>;
using int2 = Pair<int>; using int4 = Quad<int>;
using float2 = Pair<float>; using float4 = Quad<float>;
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void __syncthreads() { simt::barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { simt::exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = simt::current % 32;
  return simt::pick(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = simt::current % 32, other = lane ^ bits;
  return simt::pick(mask, value, other / width == lane / width ? other : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = simt::current % 32;
  return simt::pick(mask, value, lane % width >= delta ? lane - delta : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = simt::current % 32;
  return simt::pick(mask, value, lane % width + delta < unsigned(width) ? lane + delta : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned own = predicate ? 1u << simt::current % 32 : 0u;
  return simt::fold(mask, own, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value) {
  const unsigned long long* table = simt::exchange(mask, simt::pack(value));
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) && table[lane] == simt::pack(value)) same |= 1u << lane;
  return same;
}
template <class T> T __reduce_max_sync(unsigned mask, T value) {
  return simt::fold(mask, value, [](T a, T b) { return a > b ? a : b; });
}
template <class T> T __reduce_min_sync(unsigned mask, T value) {
  return simt::fold(mask, value, [](T a, T b) { return a < b ? a : b; });
}
template <class T> T __reduce_add_sync(unsigned mask, T value) {
  return simt::fold(mask, value, [](T a, T b) { return T(a + b); });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return simt::fold(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __activemask() { return ~0u; }

template <class T, class V> T atomicAdd(T* at, V value) {
  const T old = *at;
  *at = T(old + value);
  return old;
}
template <class T, class V> T atomicMax(T* at, V value) {
  const T old = *at;
  if (T(value) > old) *at = T(value);
  return old;
}
template <class T, class V> T atomicOr(T* at, V value) {
  const T old = *at;
  *at = T(old | value);
  return old;
}

inline unsigned __float_as_uint(float x) { return simt::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return simt::bits<float>(x); }
inline int __float_as_int(float x) { return simt::bits<int>(x); }
inline float __int_as_float(int x) { return simt::bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::bits<double>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmul_rz(float a, float b) {
  const double exact = double(a) * double(b);
  const float near = float(exact);
  const bool past = fabs(double(near)) > fabs(exact);
  return past ? simt::bits<float>(simt::bits<unsigned>(near) - 1u) : near;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __vmaxu2(unsigned a, unsigned b) {
  const unsigned low = (a & 0xFFFF) > (b & 0xFFFF) ? a & 0xFFFF : b & 0xFFFF;
  const unsigned high = a >> 16 > b >> 16 ? a >> 16 : b >> 16;
  return high << 16 | low;
}
inline unsigned __vminu2(unsigned a, unsigned b) { return a ^ b ^ __vmaxu2(a, b); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)b << 32 | a;
  unsigned made = 0;
  for (int i = 0; i < 4; ++i)
    made |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return made;
}
template <class T> T __ldg(const T* at) { return *at; }
template <class T> void __stcs(T* at, T value) { *at = value; }
template <class T> T __ldcs(const T* at) { return *at; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
