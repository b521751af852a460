// The grouped GEMM of grouped_gemm.cu on tensor cores.
#include "fragments.cuh"
#include "tiles.cuh"

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

// (MW MT 16) x (NW NT 8) outputs a block; a warp does every MW-th 16 rows, and NT 8 columns that
// adjoin. `Stages` runs of 64 along k in flight. With a Run, the sums of every `period` along k (0:
// of all), a multiple of Run instructions, are multiplied by both scales and added up in fp32;
// those that leave the range are done again in fp64. Rows of x and w are multiples of 16 bytes.
// Rows of no expert become 0.
// Grid: (rows / height + experts + 1) * ceil(width / columns of a block), block 32 MW NW: blocks
// of the same rows follow each other, so that x is read from memory once.
// Rounding: the unit's, scales and sums of runs to fp32, then grouped.cuh: bias, activation.
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
  for (int r = int(threadIdx.x); r < kHeight; r += kThreads)
    sources[r] = r < tile.count && !idle ? source_row(job, tile.start + r) : -1;
  __syncthreads();

  const int lane = lane_of_thread(), group = lane / 4, t = lane % 4;
  const int warp = int(threadIdx.x / 32);
  const int top = warp / NW * 16, left = warp % NW * NT * 8;
  const auto row_of = [&](int m, int i) { return top + m * MW * 16 + group + i * 8; };
  const auto own_row = [&](int n, int j) {
    return weight_row<kGated>(first, left + n * 8 + 2 * t + j, job);
  };
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
  Scales<2 * MT> row_scales(x, 0, [&](int i) { return sources[row_of(i / 2, i % 2)]; });
  Scales<2 * NT> column_scales(w, tile.expert, [&](int i) { return own_row(i / 2, i % 2); });
  // Multiplies the sums since k = from by their scales and adds them to the total.
  const auto promote = [&](i64 from, i64 to) {
    float xs[2 * MT], ws[2 * NT];
    row_scales.decode(xs);
    column_scales.decode(ws);
    if (to < x.depth) {
      row_scales.load(to);
      column_scales.load(to);
    }
    const auto scaled = [&](int m, int n, int i) {
      return __fmul_rn(__fmul_rn(float(part[m][n][i]), xs[2 * m + i / 2]), ws[2 * n + i % 2]);
    };
    float zeros = 0.0f;  // unless a value is not finite
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float value = scaled(m, n, i);
          if (fabsf(value) < infinity()) total[m][n][i] = __fadd_rn(total[m][n][i], value);
          zeros = __fmaf_rn(value, 0.0f, zeros);
        }
    u64 lost = 0;
    if (zeros != 0.0f) {
#pragma unroll
      for (int j = 0; j < MT * NT * 4; ++j)
        if (!is_finite(scaled(j / (NT * 4), j / 4 % NT, j % 4))) lost |= u64(1) << j;
    }
#pragma unroll
    for (int j = 0; j < MT * NT * 4; ++j) part[j / (NT * 4)][j / 4 % NT][j % 4] = 0;
#pragma unroll 1
    while (lost) {
      const int at = __ffsll(lost) - 1, m = at / (NT * 4), n = at / 4 % NT, i = at % 4;
      lost &= lost - 1;
      const i64 row = sources[row_of(m, i / 2)], own = own_row(n, i % 2);
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

  int reading = 0, writing = Stages - 1;
#pragma unroll 1
  for (int s = 0; s < Stages - 1; ++s) {
    if (s < steps) {
      rows.fetch(memory + s * kStage);
      columns.fetch(memory + s * kStage + kXBytes);
    }
    commit_copies();
  }
  if constexpr (kScaled) {
    if (!idle) {
      row_scales.load(0);
      column_scales.load(0);
    }
  }
  i64 from = 0, to = period ? min(x.depth, i64(period)) : x.depth;
#pragma unroll 1
  for (i64 step = 0; step < steps; ++step) {
    wait_for_copies<Stages - 2>();
    __syncthreads();
    if (step + Stages - 1 < steps) {
      rows.fetch(memory + writing * kStage);
      columns.fetch(memory + writing * kStage + kXBytes);
    }
    commit_copies();
    const char* stage = memory + reading * kStage;
    writing = reading;
    reading = reading + 1 < Stages ? reading + 1 : 0;
    if (kScaled || MT == 1 || whole) {
#pragma unroll 1
      for (int inner = 0; inner < kInner; inner += kRun) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) multiply(stage, inner + i, true);
        if constexpr (kScaled) {
          if (step * kSteps + (inner + kRun) * Unit<U>::kDepth >= to && from < x.depth) {
            promote(from, to);
            from = to;
            to = period ? min(x.depth, to + period) : x.depth;
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
  const float xw = x.wholes ? x.wholes[0] : 1.0f;
  const float ww = w.wholes && !idle ? w.wholes[tile.expert * w.whole_step] : 1.0f;
  const Parameters own = own_parameters(parameters, idle ? 0 : tile.expert);
  constexpr int kAcross = kWidth < kThreads ? kWidth : kThreads;
  static_assert(kThreads % kAcross == 0 && kWidth % kAcross == 0);
#pragma unroll 1
  for (int c = int(threadIdx.x) % kAcross; c < kWidth; c += kAcross) {
    const i64 column = first + c;
    if (column >= job.width) break;
    const Biases biases = idle ? Biases{} : biases_of<C>(column, tile.expert, job);
#pragma unroll 1
    for (int r = int(threadIdx.x) / kAcross; r < tile.count; r += kThreads / kAcross) {
      const float* from_sums = sums[r] + (kGated ? c / 8 * 16 + c % 8 : c);
      const float gate = __fmul_rn(__fmul_rn(from_sums[0], xw), ww);
      const float up = kGated ? __fmul_rn(__fmul_rn(from_sums[8], xw), ww) : gate;
      if (idle) put_float(out, (tile.start + r) * job.width + column, 0.0f, job.out_type);
      else finish<C>(gate, up, biases, tile.start + r, column, job, own, out);
    }
  }
}
