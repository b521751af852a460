// The weighted sum over each token's rows, in the order of its choices, and what joins it.
#include "types.cuh"

// What is done beside the sum; null pointers and factors of 1 leave a step out.
struct Joining {
  const void* x;        // T[tokens, columns], the row of identity experts
  const float* shared;  // f32[tokens, columns], added once
  const float* gate;    // f32[tokens], multiplies shared
  float scale;          // multiplies the sum before shared is added
  float factor;         // multiplies everything, last
};

// ((sum over j of weight[t, j] * down[inverse[t, j]]) * scale + shared * gate) * factor.
// A slot without a row contributes nothing, whatever its weight; one whose id is at least
// `experts` takes x as its row. N values a thread; N = 1 is the naive kernel.
// Grid: (tokens, ceil(columns / (block * N))), any block.
// Rounding: every product and sum to fp32, the result to Out.
template <class T, class W, class Out, class Index, int N>
__global__ void combine_rows(const T* down, const i32* inverse, const W* weights, const i32* ids,
                             i32 experts, i32 choices, Out* out, i64 columns,
                             const __grid_constant__ Joining joining) {
  const Index column = (Index(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (column >= Index(columns)) return;
  const Index token = Index(blockIdx.x), at = token * Index(columns) + column;
  float sum[N];
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] = 0.0f;
#pragma unroll 2
  for (i32 j = 0; j < choices; ++j) {
    const Index slot = token * Index(choices) + j;
    const i32 row = inverse[slot];
    const bool identity = ids && ids[slot] >= experts;
    if (row < 0 && !identity) continue;
    const Vector<T, N> loaded =
        identity ? load<T, N>(static_cast<const T*>(joining.x) + at)
                 : load<T, N>(down + (Index(row) * Index(columns) + column));
    const float weight = weights ? to_float(weights[slot]) : 1.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float product = __fmul_rn(to_float(loaded.at[i]), weight);
      sum[i] = __fadd_rn(sum[i], product);
    }
  }
  if (joining.scale != 1.0f)
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = __fmul_rn(sum[i], joining.scale);
  if (joining.shared) {
    const float gate = joining.gate ? joining.gate[token] : 1.0f;
#pragma unroll
    for (int i = 0; i < N; ++i)
      sum[i] = __fadd_rn(sum[i], __fmul_rn(joining.shared[at + i], gate));
  }
  Vector<Out, N> made;
#pragma unroll
  for (int i = 0; i < N; ++i) made.at[i] = from_float<Out>(__fmul_rn(sum[i], joining.factor));
  store<Out, N>(out + at, made);
}
