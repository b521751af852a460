// Small steps around the GEMMs: rows weighted before them, and the gate of a shared expert.
#include "functions.cuh"

// to[row] = from[slots[row] / choices] * weights[slots[row]], 0 where a row holds no slot.
// Grid: (rows, ceil(columns / 128)), block 128. Rounding: the product to fp32, then to Out.
template <class T, class Out>
__global__ void __launch_bounds__(128)
weigh_rows(const T* from, const i32* slots, i32 count, i32 choices, const float* weights, Out* to,
           i64 columns) {
  const i64 row = blockIdx.x, column = i64(blockIdx.y) * 128 + threadIdx.x;
  if (column >= columns) return;
  const i32 slot = slots[row];
  float value = 0.0f;
  if (slot >= 0 && slot < count)
    value = __fmul_rn(to_float(from[Offset(slot / choices * columns + column)]), weights[slot]);
  to[Offset(row * columns + column)] = from_float<Out>(value);
}

// values[i] = 1 / (1 + exp(-values[i])), in place. Grid: ceil(count / block), any block.
// Rounding: functions.cuh.
__global__ void sigmoid_values(float* values, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) values[i] = sigmoid(values[i]);
}
