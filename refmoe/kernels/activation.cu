// Gate and up to the intermediate, rounded once, or quantised on the way out.
#include "activation.cuh"
#include "codes.cuh"

// N values of one row, times the row's weight where the layer weights the intermediate.
template <class In, Curve C, int N>
__device__ __forceinline__ void activate_values(const In* gate_up, i64 row, i64 column, i64 width,
                                                Parameters p, i64 expert, const float* weights,
                                                float (&values)[N]) {
  constexpr bool kGated = is_gated(C);
  if (p.alphas) p.alpha = p.alphas[expert];
  if (p.betas) p.beta = p.betas[expert];
  if (p.limits) p.limit = p.limits[expert];
  const In* from = gate_up + Offset(row * width * (kGated ? 2 : 1) + column);
  Held<In, N> gate{};
  if (kGated) gate = hold<In, N>(from);
  const Held<In, N> up = hold<In, N>(kGated ? from + width : from);
  const float weight = weights ? weights[row] : 1.0f;
#pragma unroll
  for (int i = 0; i < N; ++i)
    values[i] = __fmul_rn(activated<C>(float_at(gate, i), float_at(up, i), p), weight);
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
  put(intermediate + Offset(row * width + column), round_all<Out>(values));
}

// The same, quantised in blocks of one row, which lie on lanes = columns / 8 neighbouring lanes, of
// which S work out scales: a thread takes two vectors of 8 values, a warp's width apart.
// Grid: (rows, ceil(width / 2048)), block 128. Rounding: the intermediate to Mid, then scales.cuh.
template <class In, class Mid, Curve C, class Element, Rounding R, Kind K, int S, class Id>
__global__ void __launch_bounds__(128)
activate_quantize(const In* gate_up, const Id* experts, const float* weights, u8* codes,
                  void* scales, const __grid_constant__ Parameters parameters,
                  const __grid_constant__ Format format, i64 width) {
  constexpr int N = 8, U = 2;
  const i64 row = blockIdx.x;
  const int lane = int(threadIdx.x % 32), shift = 31 - __clz(format.columns / N);
  const int count = int(width / N);
  const int first = int(blockIdx.y) * 128 * U + int(threadIdx.x / 32) * 32 * U + lane;
  Held<Mid, N> rounded[U] = {};
#pragma unroll
  for (int u = 0; u < U; ++u) {
    if (first + 32 * u >= count) continue;
    float values[N];
    activate_values<In, C, N>(gate_up, row, i64(first + 32 * u) * N, width, parameters,
                              experts ? experts[row] : 0, weights, values);
    rounded[u] = round_all<Mid>(values);
  }
  u32 stored[U / S];
  quantize_lanes<Mid, Element, R, K, S>(
      rounded, 1 << shift, format, Whole{1.0f, 1.0f}, stored,
      [&](int u, const Held<u8, N>& made) {
        const i64 v = first + 32 * u;
        if (v < count) put(codes + Offset(row * width + v * N), made);
      });
  if ((lane & ((1 << shift) - 1)) >= S) return;
#pragma unroll
  for (int s = 0; s < U / S; ++s) {
    const int v = first + 32 * (s * S + lane % S);
    if (v < count) put_scale(scales, (row * count + v) >> shift, stored[s], format.scale_type);
  }
}
