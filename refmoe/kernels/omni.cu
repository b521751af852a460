// The product-key router by brute force, and its backward. See omni.cuh for order and rounding.
#include "omni.cuh"

// Naive: a warp does a token by brute force. Grid: ceil(tokens / 4), block 128, shared 4 k entries.
template <class T, class Sum, class Id>
__global__ void __launch_bounds__(128)
omni_route_naive(const T* xs, const T* ys, i64 tokens, i32 n, i32 k, T* scores, Id* ids) {
  DYNAMIC_SHARED(memory);
  u64* list = reinterpret_cast<u64*>(memory) + threadIdx.x / 32 * k;
  const i64 token = i64(blockIdx.x) * 4 + threadIdx.x / 32;
  if (token >= tokens) return;
  const T* x = xs + token * n;
  const T* y = ys + token * n;
  struct Read {
    const T* from;
    __device__ __forceinline__ float operator()(i32 i) const { return to_float(from[i]); }
  };
  brute_force<Sum>(Read{x}, Read{y}, 0, n, n, k, list);
  for (i32 c = lane_of_thread(); c < k; c += 32) {
    const i32 id = id_of(list[c]);
    scores[token * k + c] =
        from_float<T>(sum_of<Sum>(to_float(x[id / n]), to_float(y[id % n])));
    ids[token * k + c] = Id(id);
  }
}

// d_x[i] = sum of d_scores over the slots with id / n = i, d_y[j] over those with id % n = j, in
// the order of the slots; ids out of range carry nothing. One warp does one token; column c
// belongs to lane c % 32. Grid: ceil(tokens / 4), block 128, shared 8 n floats.
// Rounding: every sum to fp32, the result to T.
template <class T, class Id>
__global__ void __launch_bounds__(128)
omni_route_backward(const T* d_scores, const Id* ids, i64 tokens, i32 n, i32 k, T* d_x, T* d_y) {
  DYNAMIC_SHARED(memory);
  const i32 lane = lane_of_thread(), warp = i32(threadIdx.x / 32);
  float* sums = reinterpret_cast<float*>(memory) + warp * 2 * n;
  const i64 token = i64(blockIdx.x) * 4 + warp;
  if (token >= tokens) return;
  for (i32 c = lane; c < 2 * n; c += 32) sums[c] = 0.0f;
  __syncwarp();
  for (i32 j = 0; j < k; ++j) {
    const i64 id = i64(ids[token * k + j]);
    if (id < 0 || id >= i64(n) * n) continue;
    const i32 row = i32(id / n), column = i32(id % n);
    const float gradient = to_float(d_scores[token * k + j]);
    if (row % 32 == lane) sums[row] = __fadd_rn(sums[row], gradient);
    if (column % 32 == lane) sums[n + column] = __fadd_rn(sums[n + column], gradient);
  }
  __syncwarp();
  for (i32 c = lane; c < n; c += 32) {
    d_x[token * n + c] = from_float<T>(sums[c]);
    d_y[token * n + c] = from_float<T>(sums[n + c]);
  }
}
