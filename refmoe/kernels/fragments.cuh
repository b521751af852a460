// From a tile in shared memory to the words of fragments that one lane holds.
//
// Where both operands have the unit's own type, ldmatrix. Where one is decoded, lane t of four
// takes elements 4 t to 4 t + 3 of every run of 16 and hands them to the unit as its columns of the
// lower and of the upper half: a permutation of k that both operands share, and one load for both
// words.
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
  template <class U> static constexpr bool kNative = true;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    return *reinterpret_cast<const uint2*>(at);
  }
  static __device__ __forceinline__ float value(const void* elements, i64 i) {
    return to_float(static_cast<const T*>(elements)[i]);
  }
};

// Four E4M3 codes: as the fields of a bf16 a code is 2^-120 of its value. One that is not a number
// carries into its byte's top bit, and gets all bits set.
__device__ __forceinline__ uint2 decode_e4m3(u32 codes) {
  const u32 lost = (((codes & 0x7F7F7F7Fu) + 0x01010101u) >> 7 & 0x01010101u) * 0xFFu;
  const auto pair = [](u32 spread, u32 none) {
    return scale_pair((spread >> 4 & 0x07F007F0u) | (spread & 0x80008000u), 120) | none;
  };
  return make_uint2(pair(__byte_perm(codes, 0, 0x1404), __byte_perm(lost, 0, 0x1100)),
                    pair(__byte_perm(codes, 0, 0x3424), __byte_perm(lost, 0, 0x3322)));
}

// One code a byte, decoded for a 16-bit unit, which holds every code exactly.
template <class Element> struct Bytes {
  static constexpr int kBits = 8;
  template <class U> static constexpr bool kNative = Unit<U>::kDepth == 32;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    const u32 codes = *reinterpret_cast<const u32*>(at);
    if constexpr (is_same<Element, element::e4m3> && is_same<U, bf16>) return decode_e4m3(codes);
    return make_uint2(
        pair_of<U>(decode<Element>(codes & 255u), decode<Element>(codes >> 8 & 255u)),
        pair_of<U>(decode<Element>(codes >> 16 & 255u), decode<Element>(codes >> 24)));
  }
  static __device__ __forceinline__ float value(const void* elements, i64 i) {
    return decode<Element>(static_cast<const u8*>(elements)[i]);
  }
};

// The lower and upper bytes of E2M1's magnitudes, as __byte_perm looks them up.
template <class U> struct Magnitudes;
template <> struct Magnitudes<bf16> {
  static constexpr u32 kLower[2] = {0xC0800000u, 0xC0804000u};
  static constexpr u32 kUpper[2] = {0x3F3F3F00u, 0x40404040u};
};
template <> struct Magnitudes<fp16> {
  static constexpr u32 kLower[2] = {0, 0}, kUpper[2] = {0x3E3C3800u, 0x46444240u};
};

// Two FP4 codes a byte, the low half first.
struct Nibbles {
  static constexpr int kBits = 4;
  template <class U> static constexpr bool kNative = false;
  template <class U> static __device__ __forceinline__ uint2 words(const char* at) {
    using Table = Magnitudes<U>;
    const u32 codes = *reinterpret_cast<const u16*>(at), magnitudes = codes & 0x7777u;
    const u32 signs = __byte_perm(0x8000u, 0, codes >> 3 & 0x1111u);
    const u32 lower = __byte_perm(Table::kLower[0], Table::kLower[1], magnitudes);
    const u32 upper = __byte_perm(Table::kUpper[0], Table::kUpper[1], magnitudes) | signs;
    return make_uint2(__byte_perm(lower, upper, 0x5140), __byte_perm(lower, upper, 0x7362));
  }
  static __device__ __forceinline__ float value(const void* elements, i64 i) {
    return decode<element::e2m1>(static_cast<const u8*>(elements)[i / 2] >> i % 2 * 4 & 15u);
  }
};

// A stage of one operand: rows of kSteps elements along k. The 16-byte pieces of a row are moved
// about by the row's number, so that the lanes of a load meet different banks.
constexpr int kSteps = 64;
template <class S, class U, bool kNative> struct Tile {
  static constexpr int kPitch = kSteps * S::kBits / 8, kPieces = kPitch / 16;
  static constexpr int kLaneBytes = Unit<U>::kDepth / 4 * S::kBits / 8;

  // What is xor'ed into offsets in rows of this number modulo 8.
  static __device__ __forceinline__ u32 moved(u32 row) {
    return row / (128 / kPitch) * (!kNative && kLaneBytes == 8 ? 2 : 1) % kPieces * 16;
  }

  // Where in 16 rows the lane's words of the first step lie.
  template <bool Columns> static __device__ __forceinline__ u32 place() {
    const u32 lane = threadIdx.x % 32;
    if constexpr (kNative) {
      const u32 lower = Columns ? lane / 16 : lane / 8 % 2;
      const u32 half = Columns ? lane / 8 % 2 : lane / 16;
      return (lower * 8 + lane % 8) * kPitch + (half * 16 ^ moved(lane % 8));
    } else {
      return lane / 4 * kPitch + (lane % 4 * kLaneBytes ^ moved(lane / 4));
    }
  }

  // What the lane with place `at` holds, at `step` of the stage, of 16 rows from `rows` on: a
  // fragment of rows, or two of 8 columns each.
  template <bool Columns>
  static __device__ __forceinline__ void words(u32 (&to)[4], const char* rows, u32 at, int step) {
    if constexpr (kNative) {
      load_matrices(to, rows + (at ^ step * 32));
    } else {
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        const char* row = rows + lower * 8 * kPitch + (at ^ step * 4 * kLaneBytes);
        const uint2 both = S::template words<U>(row);
        to[Columns ? 2 * lower : lower] = both.x;
        to[Columns ? 2 * lower + 1 : lower + 2] = both.y;
      }
    }
  }
};

// What one thread copies of every stage: a piece of each kEvery-th of `Rows` rows; zeros where
// there is no row, or k passes the depth.
template <class S, class T, int Rows, int Threads> struct Copies {
  static constexpr int kEvery = Threads / T::kPieces, kCount = (Rows + kEvery - 1) / kEvery;
  static constexpr u32 kNone = 0xFFFFFFFFu;
  static_assert(Threads % T::kPieces == 0 && kEvery % 8 == 0);
  const char* from;  // row 0 at the stage to come
  i64 left;          // bytes of a row from there on
  u32 to;
  u32 rows[kCount];  // where they start, in 16 bytes; kNone

  // Row r of the tile is row source(r) of the matrix at `elements`, none where that is negative.
  template <class Source>
  __device__ __forceinline__ Copies(const void* elements, i64 depth, Source source) {
    const u32 first = threadIdx.x / T::kPieces, piece = threadIdx.x % T::kPieces * 16;
    const i64 bytes = depth * S::kBits / 8;
    from = static_cast<const char*>(elements) + piece;
    left = bytes - piece;
    to = first * T::kPitch + (piece ^ T::moved(first));
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = int(first) + i * kEvery;
      const i64 row = r < Rows ? source(r) : -1;
      rows[i] = row < 0 ? kNone : u32(row * (bytes / 16));
      keep(rows[i]);
    }
  }

  __device__ __forceinline__ void fetch(char* stage) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (Rows % kEvery && int(threadIdx.x) / T::kPieces + i * kEvery >= Rows) break;
      const i32 valid = left > 0 && rows[i] != kNone ? 16 : 0;
      const Offset at = Offset(rows[i]) * 16;
      copy_async(stage + to + i * kEvery * T::kPitch, from + at, valid);
    }
    from += T::kPitch;
    left -= T::kPitch;
  }
};
