// Element formats alone: one value, one code. Rounding: encode rounds once, decode is exact.
#include "codes.cuh"

// codes[i] = encode(values[i]). Grid: ceil(count / block), any block. One rounding, saturating.
template <class Format, Rounding R>
__global__ void encode_elements(const float* values, u8* codes, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) codes[i] = u8(encode<Format, R>(values[i]));
}

// The same by the short way, which finite values take, four a thread with Four.
// Grid: ceil(count / block), any block.
template <class Format, bool Short, bool Four>
__global__ void encode_finite_elements(const float* values, u8* codes, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if constexpr (Four) {
    if (4 * i >= count) return;
    float own[4];
    for (int n = 0; n < 4; ++n) own[n] = values[min(4 * i + n, count - 1)];
    const u32 four = encode_four<Format, Short>(own);
    for (int n = 0; n < 4 && 4 * i + n < count; ++n) codes[4 * i + n] = u8(four >> 8 * n);
  } else if (i < count) {
    codes[i] = u8(encode_finite<Format, Short>(values[i]));
  }
}

// quotients[i] = x[i] / s[i] through 1 / s[i]. Grid: ceil(count / block), any block.
template <bool Short>
__global__ void quotient_elements(const float* x, const float* s, float* quotients, i64 count) {
  const i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) quotients[i] = quotient<Short>(x[i], s[i], divide(1.0f, s[i]));
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
