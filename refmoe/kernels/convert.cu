// Element formats alone: one value, one code. Rounding: encode rounds once, decode is exact.
#include "blocks.cuh"

// codes[i] = encode(values[i]). Grid: ceil(count / block), any block. One rounding, saturating.
template <class Format, Rounding R>
__global__ void encode_elements(const float* values, u8* codes, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) codes[i] = u8(encode<Format, R>(values[i]));
}

// The same by the short way, which finite values take. Grid: ceil(count / block), any block.
template <class Format, bool Short>
__global__ void encode_finite_elements(const float* values, u8* codes, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) codes[i] = u8(encode_finite<Format, Short>(values[i]));
}

// quotients[i] = x[i] / s[i] by the short way. Grid: ceil(count / block), any block.
__global__ void quotient_elements(const float* x, const float* s, float* quotients, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) quotients[i] = quotient(x[i], s[i], divide(1.0f, s[i]));
}

// values[i] = decode(codes[i]). Grid: ceil(count / block), any block. Exact.
template <class Format>
__global__ void decode_elements(const u8* codes, float* values, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) values[i] = decode<Format>(codes[i]);
}

// to[i] = T(values[i]), rounded to nearest even. Grid: ceil(count / block), any block.
template <class T> __global__ void round_elements(const float* values, T* to, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from_float<T>(values[i]);
}

// values[i] = from[i], exactly. Grid: ceil(count / block), any block.
template <class T> __global__ void widen_elements(const T* from, float* values, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) values[i] = to_float(from[i]);
}
