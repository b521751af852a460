// From the sums of a tile, in shared memory, to results in memory.
#pragma once
#include "tiles.cuh"

__device__ __noinline__ double scale_of_row(const Operand& from, i64 lead, i64 row, i64 k) {
  return double(factor_of(from, lead, row, k).scale);
}

// Row `row` of x times row `column` of lead `lead` of w, without whole scales: runs of `period` (0:
// all) in fp64, added up in fp32. What a unit's sum loses beyond fp32's range on the way is here.
template <class X, class W>
__device__ __noinline__ float sum_again(const Operand& x, i64 row, const Operand& w, i64 lead,
                                        i64 column, i64 period) {
  const i64 depth = x.depth, x_start = row * depth, w_start = (lead * w.rows + column) * depth;
  float sum = 0.0f;
#pragma unroll 1
  for (i64 k = 0; k < depth;) {
    const double scale = scale_of_row(x, 0, row, k) * scale_of_row(w, lead, column, k);
    const i64 to = period ? min(depth, k + period) : depth;
    double run = 0.0;
#pragma unroll 1
    for (; k < to; ++k)
      run += double(X::value(x.elements, x_start + k)) * double(W::value(w.elements, w_start + k));
    sum = __fadd_rn(sum, float(run * scale));
  }
  return sum;
}

// The results of a block's tile from its sums, a row of 8 floats more than `Columns` each: done
// again where scaled ones are not finite, then whole scales, bias, activation. Rows of no expert
// become 0.
template <class X, class W, Curve C, bool Scaled, int Columns, int Threads>
__device__ __forceinline__ void put_results(const RowTile& tile, i64 first, const Operand& x,
                                            const Operand& w, const Job& job,
                                            const Parameters& parameters, i32 period, void* out) {
  DYNAMIC_SHARED(memory);
  constexpr bool kGated = is_gated(C);
  constexpr int kWidth = Columns / (kGated ? 2 : 1), kAcross = kWidth < Threads ? kWidth : Threads;
  static_assert(Threads % kAcross == 0 && kWidth % kAcross == 0);
  const bool idle = tile.expert == job.experts;
  const float xw = x.wholes ? x.wholes[0] : 1.0f;
  const float ww = w.wholes && !idle ? w.wholes[tile.expert * w.whole_step] : 1.0f;
  const Parameters own = own_parameters(parameters, idle ? 0 : tile.expert);
#pragma unroll 1
  for (int c = int(threadIdx.x) % kAcross; c < kWidth; c += kAcross) {
    const i64 column = first + c;
    if (column >= job.width) break;
    const Biases biases = idle ? Biases{} : biases_of<C>(column, tile.expert, job);
#pragma unroll 1
    for (int r = int(threadIdx.x) / kAcross; r < tile.count; r += Threads / kAcross) {
      const i64 row = tile.start + r;
      if (idle) {
        put_float(out, row * job.width + column, 0.0f, job.out_type);
        continue;
      }
      const auto sum_of = [&](int half, i64 start) {
        const int at = kGated ? c / 8 * 16 + half * 8 + c % 8 : c;
        float sum = reinterpret_cast<const float*>(memory)[r * (Columns + 8) + at];
        if (Scaled && !is_finite(sum))
          sum = sum_again<X, W>(x, source_row(job, row), w, tile.expert, column + start, period);
        return __fmul_rn(__fmul_rn(sum, xw), ww);
      };
      const float up = sum_of(kGated, job.up), gate = kGated ? sum_of(0, job.gate) : up;
      finish<C>(gate, up, biases, row, column, job, own, out);
    }
  }
}
