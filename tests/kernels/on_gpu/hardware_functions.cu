// Elementary functions of fp32: instructions that approximate, and what CUDA makes of them.
typedef unsigned u32;
typedef unsigned long long u64;

// `exact` in fp64 is right to an ulp or two of fp64.
#define INSTRUCTION(name, text, reference)                                                    \
  struct name {                                                                               \
    static __device__ float got(float x) {                                                    \
      float y;                                                                                \
      asm volatile(text " %0, %1;" : "=f"(y) : "f"(x));                                        \
      return y;                                                                               \
    }                                                                                         \
    static __device__ double exact(double x) { return reference; }                             \
  };
#define CALL(name, call, reference)                                                           \
  struct name {                                                                               \
    static __device__ float got(float x) { return call; }                                      \
    static __device__ double exact(double x) { return reference; }                             \
  };
INSTRUCTION(rcp_approx, "rcp.approx.f32", 1.0 / x)
INSTRUCTION(rcp_approx_ftz, "rcp.approx.ftz.f32", 1.0 / x)
INSTRUCTION(ex2_approx, "ex2.approx.f32", exp2(x))
INSTRUCTION(ex2_approx_ftz, "ex2.approx.ftz.f32", exp2(x))
INSTRUCTION(lg2_approx, "lg2.approx.f32", log2(x))
INSTRUCTION(rsqrt_approx, "rsqrt.approx.f32", rsqrt(x))
INSTRUCTION(sqrt_approx, "sqrt.approx.f32", sqrt(x))
INSTRUCTION(tanh_approx, "tanh.approx.f32", tanh(x))
CALL(fast_expf, __expf(x), exp(x))
CALL(fast_logf, __logf(x), log(x))
CALL(fast_divide, __fdividef(1.0f, x), 1.0 / x)
CALL(exp_f, expf(x), exp(x))
CALL(log1p_f, log1pf(x), log1p(x))
CALL(tanh_f, tanhf(x), tanh(x))
CALL(erf_f, erff(x), erf(x))
CALL(sqrt_f, __fsqrt_rn(x), sqrt(x))
CALL(divide, __fdiv_rn(1.0f, x), 1.0 / x)

// Bits of f(x) for the patterns from `first` on.
template <class F> __global__ void results(u32 first, u32* out) {
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  out[i] = __float_as_uint(F::got(__uint_as_float(first + i)));
}

__device__ double ulp(double y) {
  const int e = max(int(__double_as_longlong(y) >> 52 & 2047) - 1023, -126);
  return __longlong_as_double(u64(e - 23 + 1023) << 52);
}

// The pattern rides in the low bits: the error is kept to 20 bits of its significand.
__device__ void keep(volatile u64* best, double error, u32 pattern) {
  const u64 found = (u64(__double_as_longlong(error)) & ~0xFFFFFFFFull) | pattern;
  if (found > *best) atomicMax(const_cast<u64*>(best), found);
}

// Over 2^32 patterns: per exponent of the result, the largest error in ulps of the result;
// then counts of results that are not the nearest value, and of kinds that differ.
template <class F> __global__ void errors(u64* by_exponent, u64* counts) {
  const u64 threads = u64(gridDim.x) * blockDim.x;
  u64 inexact = 0, flushed = 0, kinds = 0;
  __shared__ u64 best[256];
  best[threadIdx.x] = 0;
  __syncthreads();
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < 1ull << 32; i += threads) {
    const float x = __uint_as_float(u32(i)), y = F::got(x);
    const double want = F::exact(double(x));
    const float nearest = float(want);
    if (isnan(nearest) || isnan(y) || isinf(nearest) || isinf(y)) {
      kinds += __float_as_uint(nearest) != __float_as_uint(y) && !(isnan(nearest) && isnan(y));
      continue;
    }
    inexact += y != nearest;
    const u32 exponent = __float_as_uint(nearest) >> 23 & 255;
    if (y == 0.0f && exponent == 0) flushed += nearest != 0.0f;
    else keep(&best[exponent], fabs(double(y) - want) / ulp(want), u32(i));
  }
  __syncthreads();
  atomicMax(&by_exponent[threadIdx.x], best[threadIdx.x]);
  atomicAdd(&counts[0], inexact);
  atomicAdd(&counts[1], flushed);
  atomicAdd(&counts[2], kinds);
}
