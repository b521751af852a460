// Codes and scales of a block format to values, rounded once to the type that is asked for.
#include "naive.cuh"

// a * b in fp32, rounded to odd: towards zero, and what is lost jammed into the last bit, where a
// rounding to fewer bits still sees it. b is not so small that the remainder underflows.
__device__ __forceinline__ float product_to_odd(float a, float b) {
  const float product = __fmul_rz(a, b);
  const bool inexact = fabsf(__fmaf_rn(a, b, -product)) > 0.0f;
  return __uint_as_float(__float_as_uint(product) | u32(inexact));
}

// a * b rounded to T once, the long way: the product is exact in fp64, 24 + 24 bits at most.
template <class T> __device__ __noinline__ T round_product(float a, float b) {
  return round_once<T>(double(a) * double(b));
}

// What the codes of a block are multiplied by: `scale`, exactly or in the only rounding, and then
// `whole` where there is one. A code times an E4M3 scale, or any code times a power of two, is
// exact in fp32 wherever it does not overflow.
struct Factors {
  float scale, whole;
  bool has_whole, power;
};

// The values of N codes under the same factors.
template <class T, int N>
__device__ __forceinline__ Held<T, N> values_of(const float (&codes)[N], const Factors& by) {
  const float last = by.has_whole ? by.whole : by.scale;
  float values[N];
  if (by.has_whole) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = __fmul_rn(codes[i], by.scale);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = codes[i];
  }
  if (sizeof(T) == 4 || (by.power && !by.has_whole)) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = __fmul_rn(values[i], last);
  } else if (!(fabsf(last) < power_of_two(-80)) || last == 0.0f) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = product_to_odd(values[i], last);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_float(round_product<T>(values[i], last));
  }
  return round_all<T>(values);
}

template <class T>
__device__ __noinline__ void put_value(void* values, i64 i, float code, const Factors& by) {
  const float codes[1] = {code};
  static_cast<T*>(values)[i] = values_of<T>(codes, by).at(0);
}

// Naive: one thread does one value. Grid: ceil(values / block), any block. Rounds once.
__global__ void dequantize_naive(const u8* codes, const void* scales, const float* wholes,
                                 void* values, const __grid_constant__ Format format,
                                 const __grid_constant__ Shape shape, i32 type) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= shape.leads * shape.rows * shape.columns) return;
  const i64 lead = i / (shape.rows * shape.columns);
  const i64 down = i / shape.columns % shape.rows / format.rows;
  const i64 across = i % shape.columns / format.columns;
  const i64 block = (lead * shape.down + down) * shape.across + across;
  const float scale = scale_value(get_scale(scales, block, format.scale_type), format.scale_type);
  const Factors by{scale, wholes ? wholes[lead] : 1.0f, wholes != nullptr, is_power(format)};
  const float code = decode_as(format.element, codes[i]);
  if (type == kBf16) put_value<bf16>(values, i, code, by);
  else if (type == kFp16) put_value<fp16>(values, i, code, by);
  else put_value<float>(values, i, code, by);
}

// 16 bytes of values a store, four of them a thread, blockDim apart; columns and those of a block
// are multiples of what 16 bytes hold. Grid: leads * rows * chunks, any block; a chunk is four
// stores a thread of one row. Rounds once.
template <class T, class Element>
__global__ void __launch_bounds__(256)
dequantize_vectors(const u8* codes, const void* scales, const float* wholes, T* values,
                   const __grid_constant__ Format format, const __grid_constant__ Shape shape,
                   i32 chunks) {
  constexpr int N = 16 / sizeof(T), U = 4;
  const u32 row = blockIdx.x / u32(chunks), lead = row / u32(shape.rows);
  const u32 down = row % u32(shape.rows) / u32(format.rows);
  const u32 first = blockIdx.x % u32(chunks) * (blockDim.x * U) + threadIdx.x;
  const u32 count = u32(shape.columns / N), each = u32(format.columns / N);
  const i64 start = i64(row) * shape.columns, block = (lead * shape.down + down) * shape.across;
  Held<u8, N> loaded[U];
  u32 stored[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const u32 v = min(first + u * blockDim.x, count - 1);
    loaded[u] = hold<u8, N>(codes + start + i64(v) * N);
    stored[u] = get_scale(scales, block + v / each, format.scale_type);
  }
  Factors by{0.0f, wholes ? wholes[lead] : 1.0f, wholes != nullptr, is_power(format)};
#pragma unroll 1
  for (int u = 0; u < U; ++u, move_up(loaded), move_up(stored)) {
    const u32 v = first + u * blockDim.x;
    if (v >= count) return;
    float decoded[N];
    decode_all<Element>(loaded[0], decoded);
    by.scale = scale_value(stored[0], format.scale_type);
    put(values + start + i64(v) * N, values_of<T>(decoded, by));
  }
}
