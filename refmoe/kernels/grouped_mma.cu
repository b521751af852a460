// The grouped GEMM of grouped_gemm.cu on tensor cores.
#include "fragments.cuh"
#include "results.cuh"

// (MW MT 16) x (NW NT 8) outputs a block; a warp does every MW-th 16 rows, and NT 8 columns that
// adjoin. `Stages` runs of 64 along k in flight. With a Run, the sums of every `period` along k (0:
// of all), a multiple of Run instructions, are multiplied by both scales and added up in fp32.
// Rows of x and w are multiples of 16 bytes.
// Grid: (rows / height + experts + 1) * ceil(width / columns of a block), block 32 MW NW: blocks
// of the same rows follow each other, so that x is read from memory once.
// Rounding: the unit's, scales and sums of runs to fp32, then results.cuh.
template <class U, class X, class W, Curve C, int Run, int MW, int NW, int MT, int NT,
          int Stages>
__global__ void __launch_bounds__(32 * MW * NW, 1)
gemm_mma(const __grid_constant__ Operand x, const __grid_constant__ Operand w,
         const __grid_constant__ Job job, const __grid_constant__ Parameters parameters,
         i32 period, void* out) {
  constexpr int kThreads = 32 * MW * NW, kHeight = 16 * MW * MT, kColumns = 8 * NW * NT;
  constexpr bool kGated = is_gated(C), kScaled = Run > 0;
  constexpr int kWidth = kColumns / (kGated ? 2 : 1);
  constexpr bool kNative = X::template kNative<U> && W::template kNative<U>;
  using XTile = Tile<X, U, kNative>;
  using WTile = Tile<W, U, kNative>;
  using Sum = typename Unit<U>::Sum;
  constexpr int kXBytes = kHeight * XTile::kPitch, kStage = kXBytes + kColumns * WTile::kPitch;
  constexpr int kInner = kSteps / Unit<U>::kDepth, kRun = Run ? Run : kInner;
  static_assert(!kGated || NT % 2 == 0);
  DYNAMIC_SHARED(memory);
  i64* sources = reinterpret_cast<i64*>(memory + Stages * kStage);
  const u32 across = u32((job.width + kWidth - 1) / kWidth);
  const RowTile tile = tile_of(i32(blockIdx.x / across), kHeight, job);
  const i64 first = i64(blockIdx.x % across) * kWidth;
  if (tile.count == 0) return;
  const bool idle = tile.expert == job.experts;
#pragma unroll 1
  for (int r = int(threadIdx.x); r < kHeight; r += kThreads)
    sources[r] = r < tile.count && !idle ? source_row(job, tile.start + r) : -1;
  __syncthreads();

  const int lane = lane_of_thread(), group = lane / 4, t = lane % 4;
  const int warp = int(threadIdx.x / 32);
  const int top = warp / NW * 16, left = warp % NW * NT * 8;
  const auto row_of = [&](int m, int i) { return top + m * MW * 16 + group + i * 8; };
  const i64 lead = i64(tile.expert) * w.rows;
  const i64 steps = idle ? 0 : (x.depth + kSteps - 1) / kSteps;
  Copies<X, XTile, kHeight, kThreads> rows(x.elements, x.depth, [&](int r) { return sources[r]; });
  Copies<W, WTile, kColumns, kThreads> columns(
      static_cast<const char*>(w.elements) + lead * (w.depth * W::kBits / 8), w.depth,
      [&](int c) { return weight_row<kGated>(first, c, job); });
  // Whether the warp's m-th 16 rows hold any result.
  const auto live = [&](int m) {
    return top + m * MW * 16 < tile.count && first + left / (kGated ? 2 : 1) < job.width;
  };
  const bool whole = live(MT - 1);

  float total[MT][NT][4] = {};
  Sum part[MT][NT][4] = {};
  WarpScales<16 * MT> row_scales(
      x, 0, [&](int r) { return sources[top + r / 16 * MW * 16 + r % 16]; });
  WarpScales<8 * NT> column_scales(
      w, tile.expert, [&](int c) { return weight_row<kGated>(first, left + c, job); });
  // Multiplies the sums of the run by their scales and adds them to the total; another starts at k.
  const auto promote = [&](i64 k) {
    row_scales.decode();
    column_scales.decode();
    if (k < x.depth) {
      row_scales.load(k);
      column_scales.load(k);
    }
    float ws[NT][2];
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) ws[n][j] = column_scales.of(n * 8 + j, 2 * t);
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float xs = row_scales.of(m * 16 + i / 2 * 8, group);
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          const float scaled = __fmul_rn(__fmul_rn(float(part[m][n][i]), xs), ws[n][i % 2]);
          total[m][n][i] = __fadd_rn(total[m][n][i], scaled);
          part[m][n][i] = 0;
        }
      }
  };

  // Parts of a row's place that change with the step are below 128.
  u32 row_place = top * XTile::kPitch + XTile::template place<false>();
  u32 column_place = kXBytes + left * WTile::kPitch + WTile::template place<true>();
  keep(row_place);
  keep(column_place);
  const auto multiply = [&](const char* stage, int inner, bool all) {
    u32 a[MT][4], b[NT / 2][4];
#pragma unroll
    for (int n = 0; n < NT; n += 2)
      WTile::template words<true>(b[n / 2], stage + n * 8 * WTile::kPitch, column_place, inner);
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      if (!all && !live(m)) break;
      XTile::template words<false>(a[m], stage + m * MW * 16 * XTile::kPitch, row_place, inner);
#pragma unroll
      for (int n = 0; n < NT; ++n)
        multiply_accumulate<U>(part[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
  };

  if constexpr (kScaled) {
    if (!idle) {
      row_scales.load(0);
      column_scales.load(0);
    }
  }
  constexpr i64 kNever = i64(1) << 62;
  i64 to = period ? min(x.depth, i64(period)) : x.depth;
  int reading = 0, writing = 0;
#pragma unroll 1
  for (i64 step = 1 - Stages; step < steps; ++step) {
    wait_for_copies<Stages - 2>();
    __syncthreads();
    if (step + Stages - 1 < steps) {
      rows.fetch(memory + writing * kStage);
      columns.fetch(memory + writing * kStage + kXBytes);
    }
    commit_copies();
    writing = writing + 1 < Stages ? writing + 1 : 0;
    if (step < 0) continue;
    const char* stage = memory + reading * kStage;
    reading = reading + 1 < Stages ? reading + 1 : 0;
    if (kScaled || MT == 1 || whole) {
#pragma unroll 1
      for (int inner = 0; inner < kInner; inner += kRun) {
#pragma unroll 2
        for (int i = 0; i < kRun; ++i) multiply(stage, inner + i, true);
        if constexpr (kScaled) {
          if (step * kSteps + (inner + kRun) * Unit<U>::kDepth >= to) {
            promote(to);
            to = to < x.depth ? min(x.depth, to + period) : kNever;
          }
        }
      }
    } else {
#pragma unroll 1
      for (int inner = 0; inner < kInner; ++inner) multiply(stage, inner, false);
    }
  }
  wait_for_copies<0>();

  // Through shared memory, so that neighbouring threads store neighbouring columns.
  float (*sums)[kColumns + 8] = reinterpret_cast<float (*)[kColumns + 8]>(memory);
  __syncthreads();
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[row_of(m, i / 2)][left + n * 8 + 2 * t + i % 2] =
            kScaled ? total[m][n][i] : float(part[m][n][i]);
  __syncthreads();
  put_results<X, W, C, kScaled, kColumns, kThreads>(tile, first, x, w, job, parameters, period,
                                                    out);
}
