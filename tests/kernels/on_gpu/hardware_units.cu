// Dot products of 32 bytes or more, one by one: what the matrix units make of them.
//
// Dot product i reads row i of x and of y and starts from c[i]; it takes one element of the
// diagonal of an 8 x 8 part of an instruction's result, in another part with every block.
typedef unsigned u32;
typedef unsigned long long u64;

// Element i of a lane's c: row group + 8 (i / 2), column 2 t + i % 2; part is 8 rows.
struct Place {
  u32 part, group, t;
  __device__ bool on_diagonal(u32 i) const { return i / 2 == part && 2 * t + i % 2 == group; }
};

#define MMA(name, shape)                                                                      \
  struct name {                                                                               \
    static __device__ void run(u32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {            \
      asm volatile("mma.sync.aligned." shape                                                  \
                   " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"          \
                   : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                            \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));        \
    }                                                                                         \
  };
#define MMA_HALF(name, shape)                                                                 \
  struct name {                                                                               \
    static __device__ void run(u32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {            \
      u32 low = c[0] | c[1] << 16, high = c[2] | c[3] << 16;                                   \
      asm volatile("mma.sync.aligned." shape                                                  \
                   " {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"                          \
                   : "+r"(low), "+r"(high)                                                    \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));        \
      c[0] = low & 0xFFFF, c[1] = low >> 16, c[2] = high & 0xFFFF, c[3] = high >> 16;          \
    }                                                                                         \
  };
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MMA(mma_s8, "m16n8k32.row.col.s32.s8.s8.s32")
MMA_HALF(mma_f16_f16, "m16n8k16.row.col.f16.f16.f16.f16")
#if __CUDA_ARCH__ >= 890
MMA(mma_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
MMA(mma_e5m2, "m16n8k32.row.col.f32.e5m2.e5m2.f32")
#endif

// One warp a block, 8 dot products a block.
template <class Unit>
__global__ void multiply(const u32* x, const u32* y, const u32* c, u32* out, int steps) {
  const u32 lane = threadIdx.x, row = 8 * blockIdx.x + lane / 4;
  const Place place{blockIdx.x % 2, lane / 4, lane % 4};
  u32 sum[4];
  for (u32 i = 0; i < 4; ++i) sum[i] = place.on_diagonal(i) ? c[row] : 0;
  for (int step = 0; step < steps; ++step) {
    u32 a[4] = {0, 0, 0, 0}, b[2];
    for (u32 half = 0; half < 2; ++half) {
      const u32 word = 8 * (row * steps + step) + 4 * half + place.t;
      a[2 * half + place.part] = x[word];
      b[half] = y[word];
    }
    Unit::run(sum, a, b);
  }
  for (u32 i = 0; i < 4; ++i)
    if (place.on_diagonal(i)) out[row] = sum[i];
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define WGMMA(name, shape, tail)                                                              \
  struct name {                                                                               \
    static __device__ void run(u32 (&c)[4], u64 a, u64 b) {                                    \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0;"                                       \
                   "wgmma.fence.sync.aligned;"                                                \
                   "wgmma.mma_async.sync.aligned." shape                                       \
                   " {%0, %1, %2, %3}, %4, %5, p" tail ";"                                     \
                   "wgmma.commit_group.sync.aligned;"                                         \
                   "wgmma.wait_group.sync.aligned 0;}"                                        \
                   : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                            \
                   : "l"(a), "l"(b)                                                           \
                   : "memory");                                                               \
    }                                                                                         \
  };
#define WGMMA_HALF(name, shape, tail)                                                         \
  struct name {                                                                               \
    static __device__ void run(u32 (&c)[4], u64 a, u64 b) {                                    \
      u32 low = c[0] | c[1] << 16, high = c[2] | c[3] << 16;                                   \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0;"                                       \
                   "wgmma.fence.sync.aligned;"                                                \
                   "wgmma.mma_async.sync.aligned." shape " {%0, %1}, %2, %3, p" tail ";"        \
                   "wgmma.commit_group.sync.aligned;"                                         \
                   "wgmma.wait_group.sync.aligned 0;}"                                        \
                   : "+r"(low), "+r"(high)                                                    \
                   : "l"(a), "l"(b)                                                           \
                   : "memory");                                                               \
      c[0] = low & 0xFFFF, c[1] = low >> 16, c[2] = high & 0xFFFF, c[3] = high >> 16;          \
    }                                                                                         \
  };
WGMMA(wgmma_bf16, "m64n8k16.f32.bf16.bf16", ", 1, 1, 0, 0")
WGMMA(wgmma_f16, "m64n8k16.f32.f16.f16", ", 1, 1, 0, 0")
WGMMA_HALF(wgmma_f16_f16, "m64n8k16.f16.f16.f16", ", 1, 1, 0, 0")
WGMMA(wgmma_tf32, "m64n8k8.f32.tf32.tf32", ", 1, 1")
WGMMA(wgmma_e4m3, "m64n8k32.f32.e4m3.e4m3", ", 1, 1")
WGMMA(wgmma_e5m2, "m64n8k32.f32.e5m2.e5m2", ", 1, 1")
WGMMA_HALF(wgmma_e4m3_f16, "m64n8k32.f16.e4m3.e4m3", ", 1, 1")
WGMMA(wgmma_s8, "m64n8k32.s32.s8.s8", "")

// The start of a matrix whose 8 x 16 byte parts are contiguous: `leading` bytes from one to
// the next along k, `stride` bytes along rows; no swizzle.
__device__ u64 descriptor(const void* start, u32 leading, u32 stride) {
  const u32 address = u32(__cvta_generic_to_shared(start));
  return u64(address >> 4 & 0x3FFF) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32;
}

// Four warps a block, 8 dot products a block.
template <class Unit>
__global__ void multiply_wide(const u32* x, const u32* y, const u32* c, u32* out, int steps) {
  __shared__ __align__(128) u32 a[8][2][8][4], b[2][8][4];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = 8 * blockIdx.x;
  const Place place{blockIdx.x % 2, lane / 4, lane % 4};
  const bool own = warp == blockIdx.x / 2 % 4;
  u32 sum[4];
  for (u32 i = 0; i < 4; ++i)
    sum[i] = own && place.on_diagonal(i) ? c[first + place.group] : 0;
  for (int step = 0; step < steps; ++step) {
    for (u32 i = threadIdx.x; i < 8 * 64; i += 128) (&a[0][0][0][0])[i] = 0;
    __syncthreads();
    if (threadIdx.x < 64) {
      const u32 row = threadIdx.x / 8, word = threadIdx.x % 8;
      const u32 at = 8 * ((first + row) * steps + step) + word;
      a[blockIdx.x % 8][word / 4][row][word % 4] = x[at];
      b[word / 4][row][word % 4] = y[at];
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    Unit::run(sum, descriptor(a, 128, 256), descriptor(b, 128, 256));
    __syncthreads();
  }
  for (u32 i = 0; i < 4; ++i)
    if (own && place.on_diagonal(i)) out[first + place.group] = sum[i];
}

#endif
