// Codes and scales of a block format to values, rounded once to the type that is asked for.
#include "blocks.cuh"

// a * b rounded to T once: the product is exact in fp64 (24 + 24 bits at most), and what fp32
// loses of it is jammed into the last bit, where the second rounding still sees it.
template <class T> __device__ __noinline__ T round_product(double a, double b) {
  const double exact = a * b;
  const float near = float(exact);
  u32 bits = __float_as_uint(near);
  if (sizeof(T) < 4 && is_finite(near) && double(near) != exact && !(bits & 1u))
    bits += fabs(double(near)) < fabs(exact) ? 1u : ~0u;
  return from_float<T>(__uint_as_float(bits));
}

// The value of a code: code * scale [* whole], rounded once. A code times an E4M3 scale, or any
// code times a power of two, is exact in fp32 wherever it does not overflow.
template <class T>
__device__ __forceinline__ T value_of(float code, float scale, float whole, bool has_whole,
                                      bool power) {
  if (has_whole) return round_product<T>(double(__fmul_rn(code, scale)), double(whole));
  if (sizeof(T) == 4 || power) return from_float<T>(__fmul_rn(code, scale));
  return round_product<T>(double(code), double(scale));
}

// Naive: one thread does one value. Grid: ceil(values / block), any block. Rounds once.
template <class T, class Element>
__global__ void dequantize_naive(const u8* codes, const void* scales, const float* wholes,
                                 T* values, const __grid_constant__ Format format,
                                 const __grid_constant__ Shape shape) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= shape.leads * shape.rows * shape.columns) return;
  const i64 lead = i / (shape.rows * shape.columns);
  const i64 down = i / shape.columns % shape.rows / format.rows;
  const i64 across = i % shape.columns / format.columns;
  const i64 block = (lead * shape.down + down) * shape.across + across;
  const float scale = scale_value(get_scale(scales, block, format.scale_type), format.scale_type);
  values[i] = value_of<T>(decode<Element>(codes[i]), scale, wholes ? wholes[lead] : 1.0f,
                          wholes != nullptr, is_power(format));
}

// N codes of one block a thread: columns and the block's columns are multiples of N.
// Grid: (leads * rows, ceil(columns / (256 * N))), block 256. Rounds once.
template <class T, class Element, int N>
__global__ void __launch_bounds__(256)
dequantize_vectors(const u8* codes, const void* scales, const float* wholes, T* values,
                   const __grid_constant__ Format format, const __grid_constant__ Shape shape) {
  const i64 column = (i64(blockIdx.y) * 256 + threadIdx.x) * N;
  if (column >= shape.columns) return;
  const i64 row = blockIdx.x, lead = row / shape.rows;
  const i64 down = row % shape.rows / format.rows;
  const i64 block = (lead * shape.down + down) * shape.across + column / format.columns;
  const float scale = scale_value(get_scale(scales, block, format.scale_type), format.scale_type);
  const float whole = wholes ? wholes[lead] : 1.0f;
  const Vector<u8, N> loaded = load<u8, N>(codes + row * shape.columns + column);
  constexpr int kStep = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
#pragma unroll
  for (int start = 0; start < N; start += kStep) {
    Vector<T, kStep> made;
#pragma unroll
    for (int i = 0; i < kStep; ++i)
      made.at[i] = value_of<T>(decode<Element>(loaded.at[start + i]), scale, whole,
                               wholes != nullptr, is_power(format));
    store<T, kStep>(values + row * shape.columns + column + start, made);
  }
}
