// FP4 weights two codes a byte: rows restacked and padded, plain or interleaved for
// TensorRT-LLM's mixed-input GEMM on Hopper. Exact.
#include "types.cuh"

// How `halves` runs of old_rows rows (gate, up) become runs of new_rows rows, the second first
// where swapped.
struct Restack {
  i32 old_rows, new_rows, halves, swapped;
};

// The old row behind a new one, both counted over all experts; -1 for padding.
__device__ __forceinline__ i64 old_row(i64 row, const Restack& by) {
  const i64 expert = row / (by.new_rows * by.halves);
  const i32 inside = i32(row % (by.new_rows * by.halves));
  const i32 half = inside / by.new_rows, own = inside % by.new_rows;
  if (own >= by.old_rows) return -1;
  return (expert * by.halves + (by.swapped ? by.halves - 1 - half : half)) * by.old_rows + own;
}

__device__ __forceinline__ u32 code_at(const u8* codes, i64 row, i64 k, i64 old_depth,
                                       const Restack& by) {
  const i64 from = old_row(row, by);
  return from < 0 || k >= old_depth ? 0u : u32(codes[from * old_depth + k]) & 15u;
}

// A byte a thread, or under Interleaved a word: rows r and r + 8 of a tile of 16 share it, and its
// bits move to where three shifts make bf16 of them (operand.cuh reads it back).
// Grid: ceil(count / block), any block.
template <bool Interleaved>
__global__ void pack_codes(const u8* codes, u8* packed, i64 count, i32 old_rows, i32 new_rows,
                           i32 halves, i32 swapped, i32 old_depth, i32 depth) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Restack by{old_rows, new_rows, halves, swapped};
  const i64 bytes = depth / 2;
  if constexpr (!Interleaved) {
    const i64 row = i / bytes, k = i % bytes * 2;
    packed[i] = u8(code_at(codes, row, k, old_depth, by) |
                   code_at(codes, row, k + 1, old_depth, by) << 4);
  } else {
    const i64 row = i * 4 / bytes, byte = i * 4 % bytes;
    const i32 in_part = i32(byte % 32), pair = in_part / 16 * 2 + i32(row % 16) / 8;
    const i64 first = byte / 32 * 32 + 8 * pair + in_part % 16 / 4;
    const i64 upper = row / 16 * 16 + row % 8;
    u32 word = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const i64 k = (first + 4 * (n / 4)) * 2 + n % 2;
      const u32 code = code_at(codes, upper + 8 * (n / 2 % 2), k, old_depth, by);
      const int slot = n / 2;
      const u32 half = slot < 3 ? (code & 7u) << (6 - 3 * slot) | code >> 3 << (15 - 3 * slot)
                                : (code & 1u) << 13 | (code >> 1 & 3u) << 10 | code >> 3 << 14;
      word |= half << 16 * (n % 2);
    }
    reinterpret_cast<u32*>(packed)[i] = word;
  }
}

// Scale bytes of the same rows, `filling` where there were none; under Interleaved each 64 rows by
// 4 scales lie together, rows 16 apart side by side. Grid: ceil(count / block), any block.
template <bool Interleaved>
__global__ void pack_scales(const u8* scales, u8* packed, i64 count, i32 old_rows, i32 new_rows,
                            i32 halves, i32 swapped, i32 old_across, i32 across, i32 filling) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  i64 row = i / across, block = i % across;
  if constexpr (Interleaved) {
    const i64 tile = i / 256;
    const i32 inside = i32(i % 256);
    row = tile / (across / 4) * 64 + inside % 16 / 4 * 16 + inside / 16;
    block = tile % (across / 4) * 4 + inside % 4;
  }
  const i64 from = old_row(row, Restack{old_rows, new_rows, halves, swapped});
  packed[i] = from < 0 || block >= old_across ? u8(filling) : scales[from * old_across + block];
}
