// From a tile's row in shared memory to the two words of a fragment that one lane holds.
//
// Lane t of four takes elements E t to E t + E - 1 of every run of 4 E, E = 4 for 16-bit units and
// 8 for bytes, and hands them to the unit as its columns of the lower and of the upper half: a
// permutation of k that both operands share, and one load for both words.
#pragma once
#include "mma.cuh"

// Two fp32 values that T holds exactly, side by side.
template <class T> __device__ __forceinline__ u32 pair_of(float low, float high);
template <> __device__ __forceinline__ u32 pair_of<bf16>(float low, float high) {
  return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xFFFF0000u);
}
template <> __device__ __forceinline__ u32 pair_of<fp16>(float low, float high) {
  return u32(from_float<fp16>(low).bits) | u32(from_float<fp16>(high).bits) << 16;
}

// Values of the unit's own type.
template <class T> struct Values {
  static constexpr int kBits = 16;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    return *reinterpret_cast<const uint2*>(at);
  }
};

// One code a byte, decoded for a 16-bit unit, which holds every code exactly.
template <class Element> struct Bytes {
  static constexpr int kBits = 8;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    if constexpr (Unit<U>::kDepth == 32) {
      return *reinterpret_cast<const uint2*>(at);
    } else {
      const u32 codes = *reinterpret_cast<const u32*>(at);
      return make_uint2(
          pair_of<U>(decode<Element>(codes & 255u), decode<Element>(codes >> 8 & 255u)),
          pair_of<U>(decode<Element>(codes >> 16 & 255u), decode<Element>(codes >> 24)));
    }
  }
};

// Two FP4 codes a byte, the low half first.
struct Nibbles {
  static constexpr int kBits = 4;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    using element::e2m1;
    const u32 codes = *reinterpret_cast<const u16*>(at);
    return make_uint2(pair_of<U>(decode<e2m1>(codes & 15u), decode<e2m1>(codes >> 4 & 15u)),
                      pair_of<U>(decode<e2m1>(codes >> 8 & 15u), decode<e2m1>(codes >> 12)));
  }
};

// A stage of one operand: rows of kSteps elements along k, padded so that the lanes of a load
// meet different banks.
constexpr int kSteps = 64;
template <class S, class U> struct Tile {
  static constexpr int kRowBytes = kSteps * S::kBits / 8;
  static constexpr int kLaneElements = Unit<U>::kDepth / 4;
  static constexpr int kLaneBytes = kLaneElements * S::kBits / 8;
  static constexpr int kPitch = kRowBytes + (kLaneBytes == 8 ? 32 : 16);

  static __device__ __forceinline__ uint2 words(const char* row, int step, int t) {
    return S::template words<U>(row + (step * Unit<U>::kDepth * S::kBits) / 8 + t * kLaneBytes);
  }

  // Starts copying elements k to k + kSteps of `Rows` rows; row r is row source(r) of the operand,
  // zeros where that is negative or k passes the depth.
  template <int Rows, int Threads, class Source>
  static __device__ __forceinline__ void fetch(char* to, const void* from, i64 depth, i64 k,
                                               Source source) {
    constexpr int kChunks = kRowBytes / 16;
    const i64 bytes = depth * S::kBits / 8;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < Rows * kChunks; i += Threads) {
      const int r = i / kChunks, chunk = i % kChunks;
      const i64 row = source(r), at = k * S::kBits / 8 + chunk * 16;
      const i32 valid = row < 0 ? 0 : i32(max(i64(0), min(i64(16), bytes - at)));
      const char* start = static_cast<const char*>(from);
      copy_async(to + r * kPitch + chunk * 16, valid ? start + row * bytes + at : start, valid);
    }
  }
};
