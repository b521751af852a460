// Matrix instructions and asynchronous copies of sm_80 and up.
#pragma once
#include "formats.cuh"

// What a matrix instruction multiplies: 16 values of a 16-bit float, or 32 int8, at a time.
// 2^kLeast is the least normal value.
template <class T> struct Unit;
template <> struct Unit<bf16> {
  using Sum = float;
  static constexpr int kDepth = 16, kLeast = -126;
};
template <> struct Unit<fp16> {
  using Sum = float;
  static constexpr int kDepth = 16, kLeast = -14;
};
template <> struct Unit<element::int8> {
  using Sum = i32;
  static constexpr int kDepth = 32, kLeast = 0;
};

#ifdef REFMOE_EMULATED

template <class T> __device__ __forceinline__ float half_of(u32 word, unsigned i) {
  return to_float(T{u16(word >> 16 * i)});
}
template <class T>
__device__ __forceinline__ void multiply_accumulate(typename Unit<T>::Sum (&c)[4],
                                                    const u32 (&a)[4], u32 low, u32 high) {
  constexpr unsigned kPerWord = Unit<T>::kDepth / 8;
  const u32 b[2] = {low, high};
  simt::multiply_accumulate(c, a, b, kPerWord, Unit<T>::kLeast, [](u32 word, unsigned i) {
    if constexpr (kPerWord == 2) return half_of<T>(word, i);
    else return typename Unit<T>::Sum(decode<T>(word >> 8 * i & 255u));
  });
}
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const char* row) {
  const unsigned long long* rows = simt::exchange(kAllLanes, reinterpret_cast<u64>(row));
  for (unsigned m = 0; m < 4; ++m)
    to[m] = reinterpret_cast<const u32*>(rows[8 * m + threadIdx.x % 32 / 4])[threadIdx.x % 4];
}
__device__ __forceinline__ void keep(u32&) {}
__device__ __forceinline__ u32 scale_pair(u32 pair, int exponent) {
  const auto scaled = [&](u32 bits) {
    return u32(from_float<bf16>(to_float(bf16{u16(bits)}) * power_of_two(exponent)).bits);
  };
  return scaled(pair) | scaled(pair >> 16) << 16;
}
__device__ __forceinline__ void copy_async(void* to, const void* from, i32 valid) {
  simt::copy_later(to, from, 16, u32(valid));
}
__device__ __forceinline__ void commit_copies() { simt::commit_copies(); }
template <int N> __device__ __forceinline__ void wait_for_copies() { simt::wait_for_copies(N); }

#else

#define MULTIPLY_ACCUMULATE(shape, constraint)                                                \
  asm volatile("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "    \
               "{%0, %1, %2, %3};"                                                            \
               : "+" constraint(c[0]), "+" constraint(c[1]), "+" constraint(c[2]),            \
                 "+" constraint(c[3])                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high))

// c += a b, with the fragments of the PTX ISA; b's are words low and high.
template <class T>
__device__ __forceinline__ void multiply_accumulate(typename Unit<T>::Sum (&c)[4],
                                                    const u32 (&a)[4], u32 low, u32 high);
template <>
__device__ __forceinline__ void multiply_accumulate<bf16>(float (&c)[4], const u32 (&a)[4],
                                                          u32 low, u32 high) {
  MULTIPLY_ACCUMULATE("m16n8k16.row.col.f32.bf16.bf16.f32", "f");
}
template <>
__device__ __forceinline__ void multiply_accumulate<fp16>(float (&c)[4], const u32 (&a)[4],
                                                          u32 low, u32 high) {
  MULTIPLY_ACCUMULATE("m16n8k16.row.col.f32.f16.f16.f32", "f");
}
template <>
__device__ __forceinline__ void multiply_accumulate<element::int8>(i32 (&c)[4], const u32 (&a)[4],
                                                                   u32 low, u32 high) {
  MULTIPLY_ACCUMULATE("m16n8k32.row.col.s32.s8.s8.s32", "r");
}
#undef MULTIPLY_ACCUMULATE

// Four times 8 rows of 16 bytes, lane l giving where row l starts: each lane takes word lane % 4 of
// row lane / 4 of each eight.
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const char* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(u32(__cvta_generic_to_shared(row)))
               : "memory");
}

// Both bf16 of a pair times a power of two.
__device__ __forceinline__ u32 scale_pair(u32 pair, int exponent) {
  const u32 factor = u32(exponent + 127) << 7;
  u32 scaled;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(scaled)
      : "r"(pair), "r"(factor | factor << 16), "r"(0x80008000u));
  return scaled;
}

// Stops the compiler from working `value` out anew wherever it is used.
__device__ __forceinline__ void keep(u32& value) { asm volatile("" : "+r"(value)); }

// 16 bytes to shared memory, the first `valid` of them from `from`, the rest zeros.
__device__ __forceinline__ void copy_async(void* to, const void* from, i32 valid) {
  const u32 target = u32(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(from),
               "r"(valid)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Waits for all groups of this thread's copies but the last N.
template <int N> __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
