// What every grouped GEMM is told: which rows belong to which expert, and what follows the sum.
#pragma once
#include "activation.cuh"
#include "blocks.cuh"
#include "operand.cuh"

// Expert e owns rows offsets[e] to offsets[e + 1].
struct Offsets {
  const void* at;
  i32 wide;  // i64, else i32
  __device__ __forceinline__ i64 operator[](i64 e) const {
    return wide ? static_cast<const i64*>(at)[e] : i64(static_cast<const i32*>(at)[e]);
  }
};

struct Job {
  const void* offsets;
  const i32* slots;      // of each row, whose token's row of x it takes; null: rows are those of x
  const void* bias;      // [experts, rows of w]; null: none
  const float* weights;  // multiply the result; null: none
  i64 rows, width;       // of the result
  i64 w_rows, gate, up;  // of w per expert, and at which its gate and its up rows (or all) start
  i32 offsets_wide, experts, choices;
  i32 bias_type, out_type;  // kFp32, kBf16 or kFp16
  i32 per_row, span;        // weights of each slot, and columns that share one
};

__device__ __forceinline__ Offsets offsets_of(const Job& job) {
  return {job.offsets, job.offsets_wide};
}
__device__ __forceinline__ i64 source_row(const Job& job, i64 row) {
  return job.slots ? job.slots[row] / job.choices : row;
}

// The activation's constants for one expert.
__device__ __forceinline__ Parameters own_parameters(Parameters p, i64 expert) {
  if (p.alphas) p.alpha = p.alphas[expert];
  if (p.betas) p.beta = p.betas[expert];
  if (p.limits) p.limit = p.limits[expert];
  return p;
}

// What is added to a column's gate and up; nothing without a bias.
struct Biases {
  float gate, up;
};
template <Curve C>
__device__ __forceinline__ Biases biases_of(i64 column, i64 expert, const Job& job) {
  if (!job.bias) return {};
  const i64 at = expert * job.w_rows + column;
  const float up = get_float(job.bias, at + job.up, job.bias_type);
  return {is_gated(C) ? get_float(job.bias, at + job.gate, job.bias_type) : up, up};
}

// Bias, activation and weight on the sums of one column (and of its gate), then the one rounding
// to the type of the result.
template <Curve C>
__device__ __forceinline__ void finish(float gate, float up, const Biases& biases, i64 row,
                                       i64 column, const Job& job, const Parameters& own,
                                       void* out) {
  if (job.bias) {
    if (is_gated(C)) gate = __fadd_rn(gate, biases.gate);
    up = __fadd_rn(up, biases.up);
  }
  float value = up;
  if constexpr (C != kPlain) value = activated<C>(gate, up, own);
  if (job.weights) {
    const i64 slot = job.slots ? i64(job.slots[row]) : row;
    value = __fmul_rn(value, job.weights[slot * job.per_row + column / job.span]);
  }
  put_float(out, row * job.width + column, value, job.out_type);
}
