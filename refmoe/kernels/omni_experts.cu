// Experts of one neuron: y = sum over the slots of a V[id], a = silu(s) w, s = <x, U[id]>.
#include "functions.cuh"
#include "warp.cuh"

// One thread block does one token: its warps take the slots' dot products in turn, then all
// threads add the rows of V in the order of the slots. Ids out of range add nothing. N values a
// thread; N = 1 is the naive kernel. Grid: tokens, block 256, shared 4 k bytes.
// Rounding: s is an fp32 sum of 32 * N fused chains, a to T, a V and every sum to fp32, y to T.
template <class T, class W, class Id, int N>
__global__ void __launch_bounds__(256)
omni_experts(const T* x, const Id* ids, const W* weights, const T* up, const T* down, i64 experts,
             i32 k, i64 width, T* y) {
  DYNAMIC_SHARED(memory);
  float* factors = reinterpret_cast<float*>(memory);
  const i64 token = blockIdx.x;
  const T* own = x + token * width;
  const i32 lane = lane_of_thread();
  for (i32 slot = i32(threadIdx.x / 32); slot < k; slot += 8) {
    const i64 id = i64(ids[token * k + slot]);
    if (id < 0 || id >= experts) continue;
    const T* row = up + id * width;
    float sums[N];
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (i64 c = i64(lane) * N; c < width; c += 32 * N) {
      const Vector<T, N> a = load<T, N>(own + c), b = load<T, N>(row + c);
#pragma unroll
      for (int i = 0; i < N; ++i)
        sums[i] = __fmaf_rn(to_float(a.at[i]), to_float(b.at[i]), sums[i]);
    }
    float s = sums[0];
#pragma unroll
    for (int i = 1; i < N; ++i) s = __fadd_rn(s, sums[i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      s = __fadd_rn(s, __shfl_xor_sync(kAllLanes, s, offset));
    if (lane == 0) {
      const float a = __fmul_rn(__fmul_rn(s, sigmoid(s)), to_float(weights[token * k + slot]));
      factors[slot] = to_float(from_float<T>(a));
    }
  }
  __syncthreads();
#pragma unroll 1
  for (i64 c = i64(threadIdx.x) * N; c < width; c += 256 * N) {
    float sums[N];
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (i32 slot = 0; slot < k; ++slot) {
      const i64 id = i64(ids[token * k + slot]);
      if (id < 0 || id >= experts) continue;
      const Vector<T, N> row = load<T, N>(down + id * width + c);
#pragma unroll
      for (int i = 0; i < N; ++i)
        sums[i] = __fadd_rn(sums[i], __fmul_rn(factors[slot], to_float(row.at[i])));
    }
    Vector<T, N> made;
#pragma unroll
    for (int i = 0; i < N; ++i) made.at[i] = from_float<T>(sums[i]);
    store<T, N>(y + token * width + c, made);
  }
}
