// An operand of a GEMM, read one element at a time: values, or codes of any format and packing
// with the scales of their blocks.
#pragma once
#include "scales.cuh"

// How elements lie: one a value or code, or FP4 codes two a byte, the low half first, plain or
// interleaved for TensorRT-LLM's mixed-input GEMM on Hopper.
enum Stored {
  kValuesBf16, kValuesFp16, kValuesFp32,
  kCodesE2m1, kCodesE2m3, kCodesE3m2, kCodesE4m3, kCodesE5m2, kCodesInt8, kCodesInt4, kCodesMxint8,
  kNibbles, kNibblesSm90
};

// A stack of matrices [leads, rows, depth], reduced along depth.
struct Operand {
  const void* elements;
  const void* scales;   // of blocks [leads, down, across]; null: none
  const float* wholes;  // of each lead, or of all; null: none
  i64 rows, depth, down, across;
  i32 stored, scale_type, block_rows, block_columns;
  i32 whole_step;    // 1: a whole scale for each lead, 0: one for all
  i32 scales_sm90;  // scales folded as the interleaved codes need them
};

// One code of interleaved nibbles: rows r and r + 8 of a tile of 16 share words, the bits of which
// are moved so that three shifts make bf16 of them. Nibble n of a word has its magnitude at bit
// 16 (n % 2) + 6 - 3 (n / 2), its sign at 15 - 3 (n / 2) of the half; the last of each half is
// scattered over the bits that are left.
__device__ __forceinline__ u32 interleaved_nibble(const void* elements, i64 row, i64 k, i64 depth) {
  const i64 byte = k / 2, part = byte / 32;
  const i32 in_part = i32(byte % 32), pair = in_part / 8, high = in_part % 8 / 4, q = in_part % 4;
  const i32 half = i32(row % 16) / 8;
  const i64 target = row / 16 * 16 + row % 8 + 8 * (pair % 2);
  const i64 at = target * (depth / 2) + part * 32 + pair / 2 * 16 + q * 4;
  const u32 word = *reinterpret_cast<const u32*>(static_cast<const u8*>(elements) + at);
  const i32 nibble = 2 * (2 * high + half) + i32(k % 2), slot = nibble / 2;
  const u32 own = word >> 16 * (nibble % 2);
  if (slot < 3) return (own >> (6 - 3 * slot) & 7u) | (own >> (15 - 3 * slot) & 1u) << 3;
  return (own >> 13 & 1u) | (own >> 10 & 3u) << 1 | (own >> 14 & 1u) << 3;
}

// The element of row `row` (counted over all leads) at k, without its scale. Exact.
__device__ __forceinline__ float element_of(const Operand& from, i64 row, i64 k) {
  const Offset i = Offset(row * from.depth + k);
  const u8* bytes = static_cast<const u8*>(from.elements);
  switch (from.stored) {
    case kValuesBf16: return to_float(static_cast<const bf16*>(from.elements)[i]);
    case kValuesFp16: return to_float(static_cast<const fp16*>(from.elements)[i]);
    case kValuesFp32: return static_cast<const float*>(from.elements)[i];
    case kCodesE2m3: return decode<element::e2m3>(bytes[i]);
    case kCodesE3m2: return decode<element::e3m2>(bytes[i]);
    case kCodesE4m3: return decode<element::e4m3>(bytes[i]);
    case kCodesE5m2: return decode<element::e5m2>(bytes[i]);
    case kCodesInt8: return decode<element::int8>(bytes[i]);
    case kCodesInt4: return decode<element::int4>(bytes[i]);
    case kCodesMxint8: return decode<element::mxint8>(bytes[i]);
    case kNibbles: return decode<element::e2m1>(bytes[i / 2] >> i % 2 * 4 & 15u);
    case kNibblesSm90:
      return decode<element::e2m1>(interleaved_nibble(from.elements, row, k, from.depth));
    default: return decode<element::e2m1>(bytes[i]);
  }
}

// What the elements of a block are multiplied by; 1 for plain values.
struct Factor {
  float scale, whole;
  __device__ __forceinline__ double exact() const { return double(scale) * double(whole); }
};
__device__ __forceinline__ Factor factor_of(const Operand& from, i64 lead, i64 row, i64 k) {
  if (!from.scales) return {1.0f, 1.0f};
  const i64 down = lead * from.down + row / from.block_rows, across = k / from.block_columns;
  i64 at = down * from.across + across;
  if (from.scales_sm90)
    at = (down / 64 * (from.across / 4) + across / 4) * 256 + down % 16 * 16 +
         down % 64 / 16 * 4 + across % 4;
  const float scale = scale_value(get_scale(from.scales, at, from.scale_type), from.scale_type);
  return {scale, from.wholes ? from.wholes[lead * from.whole_step] : 1.0f};
}

// Where the run of k that shares both scales ends.
__device__ __forceinline__ i64 run_end(i64 k, const Operand& x, const Operand& w) {
  i64 end = x.depth;
  if (x.scales) end = min(end, (k / x.block_columns + 1) * x.block_columns);
  if (w.scales) end = min(end, (k / w.block_columns + 1) * w.block_columns);
  return end;
}

// Row `row` of x times row `column` of w from k to `to`, both counted over all leads and without
// scales: fp64, so that products are exact, integers sum exactly, and no sum leaves the range.
__device__ __noinline__ double run_sum(const Operand& x, i64 row, const Operand& w, i64 column,
                                       i64 k, i64 to) {
  double sum = 0.0;
#pragma unroll 1
  for (; k < to; ++k) sum += double(element_of(x, row, k)) * double(element_of(w, column, k));
  return sum;
}
