// Which rows and columns of a grouped GEMM a block does, and the scales that a lane needs there.
#pragma once
#include "grouped.cuh"
#include "warp.cuh"

// The rows of one expert that a block does: `count` from `start`; expert == experts for rows of
// none.
struct RowTile {
  i64 start;
  i32 expert, count;
};

// Tile `number` when every expert's rows, and behind them those of none, are cut into tiles of
// `height`; count 0 past the last.
__device__ __forceinline__ RowTile tile_of(i32 number, i32 height, const Job& job) {
  __shared__ RowTile found;
  const Offsets offsets = offsets_of(job);
  i32 before = 0;
#pragma unroll 1
  for (i32 base = 0; base < job.experts && before <= number; base += i32(blockDim.x)) {
    const i32 expert = base + i32(threadIdx.x);
    const bool real = expert < job.experts;
    const i64 start = real ? offsets[expert] : 0, stop = real ? offsets[expert + 1] : 0;
    i32 total;
    const i32 own = i32((stop - start + height - 1) / height);
    const i32 skip = number - before - prefix_over_block(own, total);
    if (skip >= 0 && skip < own) {
      const i64 first = start + i64(skip) * height;
      found = {first, expert, i32(min(i64(height), stop - first))};
    }
    before += total;
  }
  if (before <= number && threadIdx.x == 0) {
    const i64 first = offsets[job.experts] + i64(number - before) * height;
    found = {first, job.experts, i32(max(i64(0), min(i64(height), job.rows - first)))};
  }
  __syncthreads();
  return found;
}

// Row of w behind column c of a block's tile, -1 past the last: with a gate, runs of 8 gate rows
// and the 8 up rows of the same columns take turns, so that a lane holds both.
template <bool Gated>
__device__ __forceinline__ i64 weight_row(i64 first, i32 c, const Job& job) {
  const i64 column = first + (Gated ? c / 16 * 8 + c % 8 : c);
  if (column >= job.width) return -1;
  return column + (Gated && c / 8 % 2 == 0 ? job.gate : job.up);
}

// The scales of `Count` rows of one matrix of an operand, a lane keeping every 32nd, those of the
// next run of k already on their way; 1 for an operand without.
template <int Count> struct WarpScales {
  static constexpr int kOwn = (Count + 31) / 32;
  const char* scales;  // of the matrix; null: none
  i32 type;
  i64 columns, edge;  // of a block; where the next one starts
  u32 block, at[kOwn], stored[kOwn];
  float value[kOwn];

  // Row source(i) of matrix `lead`; a negative one stands for row 0.
  template <class Source>
  __device__ __forceinline__ WarpScales(const Operand& from, i64 lead, Source source)
      : scales(static_cast<const char*>(from.scales)), type(from.scale_type),
        columns(from.block_columns), edge(from.block_columns), block(0) {
    const i64 bytes = type <= kE4m3 ? 1 : (type == kFp32 ? 4 : 2);
    if (scales) scales += lead * from.down * from.across * bytes;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      value[j] = 1.0f;
      const i32 own = min(Count - 1, j * 32 + lane_of_thread());
      if (scales) at[j] = u32(max(i64(0), source(own))) / u32(from.block_rows) * u32(from.across);
    }
  }

  // Starts loading the scales at k, which rises by no more than a block from call to call.
  __device__ __forceinline__ void load(i64 k) {
    if (!scales) return;
    if (k >= edge) {
      ++block;
      edge += columns;
    }
#pragma unroll
    for (int j = 0; j < kOwn; ++j) stored[j] = get_scale(scales, i64(at[j]) + block, type);
  }
  // Takes in what was loaded.
  __device__ __forceinline__ void decode() {
    if (!scales) return;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) value[j] = scale_value(stored[j], type);
  }
  // Of row `fixed` + `of_lane`, the lane's part, which crosses no multiple of 32; all lanes ask.
  __device__ __forceinline__ float of(int fixed, int of_lane) const {
    return __shfl_sync(kAllLanes, value[fixed / 32], fixed % 32 + of_lane);
  }
};
