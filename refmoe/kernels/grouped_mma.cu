// The grouped GEMM of grouped_gemm.cu on tensor cores.
#include "fragments.cuh"
#include "grouped.cuh"
#include "warp.cuh"

// The rows of one expert that a block does: `count` from `start`; expert == experts for rows of
// none.
struct RowTile {
  i64 start;
  i32 expert, count;
};

// Tile `number` when every expert's rows, and behind them those of none, are cut into tiles of
// `height`; count 0 past the last. One warp looks.
__device__ __forceinline__ RowTile tile_of(i32 number, i32 height, const Job& job) {
  __shared__ RowTile found;
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) found = {0, 0, 0};
    __syncwarp();
    const Offsets offsets = offsets_of(job);
    i32 before = 0;
#pragma unroll 1
    for (i32 base = 0; base <= job.experts && before <= number; base += 32) {
      const i32 expert = base + lane_of_thread();
      const i64 start = expert <= job.experts ? offsets[expert] : 0;
      const i64 stop = expert < job.experts ? offsets[expert + 1]
                                            : (expert == job.experts ? job.rows : start);
      i32 total;
      const i32 own = i32((stop - start + height - 1) / height);
      const i32 skip = number - before - prefix_over_warp(own, total);
      if (skip >= 0 && skip < own) {
        const i64 first = start + i64(skip) * height;
        found = {first, expert, i32(min(i64(height), stop - first))};
      }
      before += total;
    }
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

// The scale of a row of one lead at k; 1 where there is no row.
__device__ __noinline__ float scale_of_row(const Operand& from, i64 lead, i64 row, i64 k) {
  return row < 0 ? 1.0f : factor_of(from, lead, row, k).scale;
}

// What a run adds, past fp32's range on the way.
__device__ __noinline__ float scaled_again(const Operand& x, i64 row, const Operand& w, i64 lead,
                                           i64 column, i64 from, i64 to) {
  const double xs = double(scale_of_row(x, 0, row, from));
  const double ws = double(scale_of_row(w, lead, column, from));
  return float(run_sum(x, row, w, lead * w.rows + column, from, to) * (xs * ws));
}

// (MW MT 16) x (NW NT 8) outputs a block, (MT 16) x (NT 8) a warp; `Stages` runs of 64 along k in
// flight. Scaled: every `period` along k (0: once) the sums so far are multiplied by both scales
// and added up in fp32; sums that leave the range are done again in fp64. Rows of x and w are
// multiples of 16 bytes. Rows of no expert become 0.
// Grid: (rows / height + experts + 1, ceil(width / columns of a block)), block 32 MW NW.
// Rounding: the unit's, scales and sums of runs to fp32, then grouped.cuh: bias, activation.
template <class U, class X, class W, Curve C, bool Scaled, int MW, int NW, int MT, int NT,
          int Stages>
__global__ void __launch_bounds__(32 * MW * NW, 1)
gemm_mma(const __grid_constant__ Operand x, const __grid_constant__ Operand w,
         const __grid_constant__ Job job, const __grid_constant__ Parameters parameters,
         i32 period, void* out) {
  constexpr int kThreads = 32 * MW * NW, kHeight = 16 * MW * MT, kColumns = 8 * NW * NT;
  constexpr bool kGated = is_gated(C);
  using XTile = Tile<X, U>;
  using WTile = Tile<W, U>;
  using Sum = typename Unit<U>::Sum;
  constexpr int kXBytes = kHeight * XTile::kPitch, kStage = kXBytes + kColumns * WTile::kPitch;
  constexpr int kUnroll = Scaled ? 1 : kSteps / Unit<U>::kDepth;
  static_assert(!kGated || NT % 2 == 0);
  DYNAMIC_SHARED(memory);
  i64* sources = reinterpret_cast<i64*>(memory + Stages * kStage);
  const RowTile tile = tile_of(i32(blockIdx.x), kHeight, job);
  const i64 first = i64(blockIdx.y) * (kColumns / (kGated ? 2 : 1));
  if (tile.count == 0) return;
  const bool idle = tile.expert == job.experts;
  for (int r = int(threadIdx.x); r < kHeight; r += kThreads)
    sources[r] = r < tile.count && !idle ? source_row(job, tile.start + r) : -1;
  __syncthreads();

  const int lane = lane_of_thread(), group = lane / 4, t = lane % 4;
  const int warp = int(threadIdx.x / 32);
  const int top = warp / NW * MT * 16, left = warp % NW * NT * 8;
  const i64 lead = i64(tile.expert) * w.rows;
  const i64 steps = idle ? 0 : (x.depth + kSteps - 1) / kSteps;
  const auto fetch = [&](i64 step) {
    char* stage = memory + step % Stages * kStage;
    XTile::template fetch<kHeight, kThreads>(stage, x.elements, x.depth, step * kSteps,
                                             [&](int r) { return sources[r]; });
    WTile::template fetch<kColumns, kThreads>(
        stage + kXBytes, w.elements, w.depth, step * kSteps, [&](int c) {
          const i64 row = weight_row<kGated>(first, c, job);
          return row < 0 ? row : lead + row;
        });
  };

  float total[MT][NT][4] = {};
  Sum part[MT][NT][4] = {};
  // Multiplies the sums since k = from by their scales and adds them to the total.
  const auto promote = [&](i64 from, i64 to) {
    float xs[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        xs[m][i] = scale_of_row(x, 0, sources[top + m * 16 + group + i * 8], from);
    u64 lost = 0;
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const i64 row = weight_row<kGated>(first, left + n * 8 + 2 * t + j, job);
        const float ws = scale_of_row(w, tile.expert, row, from);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int i = j; i < 4; i += 2) {
            const float value = __fmul_rn(__fmul_rn(float(part[m][n][i]), xs[m][i / 2]), ws);
            part[m][n][i] = 0;
            if (is_finite(value)) total[m][n][i] = __fadd_rn(total[m][n][i], value);
            else lost |= u64(1) << ((m * NT + n) * 4 + i);
          }
      }
#pragma unroll 1
    while (lost) {
      const int at = __ffsll(lost) - 1, m = at / (NT * 4), n = at / 4 % NT, i = at % 4;
      lost &= lost - 1;
      const i64 row = sources[top + m * 16 + group + i / 2 * 8];
      const i64 own = weight_row<kGated>(first, left + n * 8 + 2 * t + i % 2, job);
      if (row < 0 || own < 0) continue;
      const float value = scaled_again(x, row, w, tile.expert, own, from, to);
#pragma unroll
      for (int j = 0; j < MT * NT * 4; ++j)
        if (j == at) {
          float& sum = total[j / (NT * 4)][j / 4 % NT][j % 4];
          sum = __fadd_rn(sum, value);
        }
    }
  };

#pragma unroll 1
  for (int s = 0; s < Stages - 1; ++s) {
    if (s < steps) fetch(s);
    commit_copies();
  }
  i64 from = 0;
#pragma unroll 1
  for (i64 step = 0; step < steps; ++step) {
    wait_for_copies<Stages - 2>();
    __syncthreads();
    if (step + Stages - 1 < steps) fetch(step + Stages - 1);
    commit_copies();
    const char* stage = memory + step % Stages * kStage;
#pragma unroll kUnroll
    for (int inner = 0; inner < kSteps / Unit<U>::kDepth; ++inner) {
      u32 a[MT][4], b[NT][2];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        const char* row = stage + (top + m * 16 + group) * XTile::kPitch;
        const uint2 upper = XTile::words(row, inner, t);
        const uint2 lower = XTile::words(row + 8 * XTile::kPitch, inner, t);
        a[m][0] = upper.x;
        a[m][1] = lower.x;
        a[m][2] = upper.y;
        a[m][3] = lower.y;
      }
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const char* row = stage + kXBytes + (left + n * 8 + group) * WTile::kPitch;
        const uint2 both = WTile::words(row, inner, t);
        b[n][0] = both.x;
        b[n][1] = both.y;
      }
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NT; ++n) multiply_accumulate<U>(part[m][n], a[m], b[n]);
      if constexpr (Scaled) {
        const i64 k = min(x.depth, step * kSteps + (inner + 1) * Unit<U>::kDepth);
        if (k > from && (k == x.depth || (period && k % period == 0))) {
          promote(from, k);
          from = k;
        }
      }
    }
  }
  wait_for_copies<0>();

  // Through shared memory, so that neighbouring threads store neighbouring columns.
  float (*sums)[kColumns] = reinterpret_cast<float (*)[kColumns]>(memory);
  __syncthreads();
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[top + m * 16 + group + i / 2 * 8][left + n * 8 + 2 * t + i % 2] =
            Scaled ? total[m][n][i] : float(part[m][n][i]);
  __syncthreads();
  const float xw = x.wholes ? x.wholes[0] : 1.0f;
  const float ww = w.wholes && !idle ? w.wholes[tile.expert * w.whole_step] : 1.0f;
  const Parameters own = own_parameters(parameters, idle ? 0 : tile.expert);
  constexpr int kWidth = kColumns / (kGated ? 2 : 1);
#pragma unroll 1
  for (int at = int(threadIdx.x); at < tile.count * kWidth; at += kThreads) {
    const int r = at / kWidth, c = at % kWidth;
    const i64 row = tile.start + r, column = first + c;
    if (column >= job.width) continue;
    const float* from_sums = sums[r] + (kGated ? c / 8 * 16 + c % 8 : c);
    const float gate = __fmul_rn(__fmul_rn(from_sums[0], xw), ww);
    const float up = kGated ? __fmul_rn(__fmul_rn(from_sums[8], xw), ww) : gate;
    if (idle) put_float(out, row * job.width + column, 0.0f, job.out_type);
    else finish<C>(gate, up, row, column, tile.expert, job, own, out);
  }
}
