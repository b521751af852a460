// Each expert's rows times its weight, transposed: y[r] = x[r] w[e]^T, for operands of any format.
#include "grouped.cuh"

// Naive: a thread does an output; with an activation both halves of w, gate rows first. Rows of no
// expert become 0.
// Grid: (rows, ceil(width / 128)), block 128.
// Rounding: products and sums fp64, each dot product to fp32, then grouped.cuh: bias, activation.
template <Curve C>
__global__ void __launch_bounds__(128, 1)
gemm_naive(const __grid_constant__ Operand x, const __grid_constant__ Operand w,
           const __grid_constant__ Job job, const __grid_constant__ Parameters parameters,
           void* out) {
  const i64 row = blockIdx.x, column = i64(blockIdx.y) * 128 + threadIdx.x;
  if (column >= job.width) return;
  const int expert = expert_of(row, offsets_of(job), job.experts);
  if (expert == job.experts) {
    put_float(out, row * job.width + column, 0.0f, job.out_type);
    return;
  }
  const i64 from = source_row(job, row);
  float gate = 0.0f, up = 0.0f;
#pragma unroll 1
  for (int half = is_gated(C) ? 0 : 1; half < 2; ++half) {
    const i64 own = column + (half ? job.up : job.gate);
    double sum = 0.0;
#pragma unroll 1
    for (i64 k = 0; k < x.depth;) {
      const i64 end = run_end(k, x, w);
      const double scale = factor_of(x, 0, from, k).exact() * factor_of(w, expert, own, k).exact();
      sum += run_sum(x, from, w, expert * w.rows + own, k, end) * scale;
      k = end;
    }
    gate = up;
    up = float(sum);
  }
  finish<C>(gate, up, biases_of<C>(column, expert, job), row, column, job,
            own_parameters(parameters, expert), out);
}
