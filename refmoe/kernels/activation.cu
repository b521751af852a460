// Gate and up to the intermediate, rounded once, or quantised on the way out.
#include "activation.cuh"
#include "blocks.cuh"

// N values of one row, times the row's weight where the layer weights the intermediate.
template <class In, Curve C, int N>
__device__ __forceinline__ void activate_values(const In* gate_up, i64 row, i64 column, i64 width,
                                                Parameters p, i64 expert, const float* weights,
                                                float (&values)[N]) {
  constexpr bool kGated = is_gated(C);
  if (p.alphas) p.alpha = p.alphas[expert];
  if (p.betas) p.beta = p.betas[expert];
  if (p.limits) p.limit = p.limits[expert];
  const In* from = gate_up + row * width * (kGated ? 2 : 1) + column;
  Vector<In, N> gate{};
  if (kGated) gate = load<In, N>(from);
  const Vector<In, N> up = load<In, N>(kGated ? from + width : from);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    values[i] = activated<C>(to_float(gate.at[i]), to_float(up.at[i]), p);
    if (weights) values[i] = __fmul_rn(values[i], weights[row]);
  }
}

// intermediate[row, column] of gate_up [rows, 2 width], gate first, or [rows, width] ungated.
// N values a thread; N = 1 is the naive kernel. Grid: (rows, ceil(width / (128 * N))), block 128.
// Rounding: every operation to fp32, the result to Out.
template <class In, class Out, Curve C, int N, class Id>
__global__ void __launch_bounds__(128)
activate_rows(const In* gate_up, const Id* experts, const float* weights, Out* intermediate,
              const __grid_constant__ Parameters parameters, i64 width) {
  const i64 row = blockIdx.x, column = (i64(blockIdx.y) * 128 + threadIdx.x) * N;
  if (column >= width) return;
  float values[N];
  activate_values<In, C, N>(gate_up, row, column, width, parameters, experts ? experts[row] : 0,
                            weights, values);
  Vector<Out, N> made;
#pragma unroll
  for (int i = 0; i < N; ++i) made.at[i] = from_float<Out>(values[i]);
  store<Out, N>(intermediate + row * width + column, made);
}

// The same, quantised in blocks of one row: a block lies on columns / 8 neighbouring lanes.
// Grid: (rows, ceil(width / 1024)), block 128. Rounding: the intermediate to Mid, then scales.cuh.
template <class In, class Mid, Curve C, class Element, Rounding R, Kind K, class Id>
__global__ void __launch_bounds__(128)
activate_quantize(const In* gate_up, const Id* experts, const float* weights, u8* codes,
                  void* scales, const __grid_constant__ Parameters parameters,
                  const __grid_constant__ Format format, i64 width) {
  constexpr int N = 8;
  const i64 row = blockIdx.x, column = (i64(blockIdx.y) * 128 + threadIdx.x) * N;
  const bool inside = column < width;
  Vector<Mid, N> rounded{};
  if (inside) {
    float values[N];
    activate_values<In, C, N>(gate_up, row, column, width, parameters,
                              experts ? experts[row] : 0, weights, values);
#pragma unroll
    for (int i = 0; i < N; ++i) rounded.at[i] = from_float<Mid>(values[i]);
  }
  u32 stored;
  const int shift = 31 - __clz(format.columns / N);
  const Vector<u8, N> made =
      quantize_lanes<Mid, Element, R, K>(rounded, 1 << shift, format, Whole{1.0f, 1.0f}, stored);
  if (!inside) return;
  store<u8, N>(codes + row * width + column, made);
  if (threadIdx.x % (1 << shift) == 0)
    put_scale(scales, row * (width / format.columns) + column / format.columns, stored,
              format.scale_type);
}
