// Rows sorted by expert to codes and scales: expert e has rows offsets[e] to offsets[e + 1].
//
// With `starts` (multiples of 128) the scales of expert e stand in the 128x4 layout in a region of
// their own that starts at padded row starts[e]; without, row below row. Rows of no expert are
// left out.
#include "blocks.cuh"

template <class Index>
__device__ __forceinline__ i64 scale_place(i64 row, i64 block, i64 across, int expert,
                                           const Index* offsets, const Index* starts) {
  if (!starts) return row * across + block;
  return offset_128x4(i64(starts[expert]) + row - i64(offsets[expert]), block, across);
}

// Naive: a thread does every blockDim-th block of a row. Grid: rows, any block.
// Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, class Index>
__global__ void grouped_naive(const T* x, u8* codes, void* scales, const Index* offsets,
                              const Index* starts, int experts, const Whole* wholes,
                              const __grid_constant__ Format format, i64 columns) {
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  const Whole whole = wholes ? wholes[expert] : Whole{1.0f, 1.0f};
  const i64 across = (columns + format.columns - 1) / format.columns;
#pragma unroll 1
  for (i64 block = threadIdx.x; block < across; block += blockDim.x) {
    const i64 from = block * format.columns, to = min(columns, from + format.columns);
    u32 amax = 0;
#pragma unroll 1
    for (i64 c = from; c < to; ++c)
      amax = max(amax, amax_of(Vector<T, 1>{{x[row * columns + c]}}, format.nonfinite));
    const Chosen chosen = choose_scale<K>(amax, format, whole);
    put_scale(scales, scale_place(row, block, across, expert, offsets, starts),
              chosen.scale.stored, format.scale_type);
#pragma unroll 1
    for (i64 c = from; c < to; ++c)
      codes[row * columns + c] =
          code_of<Element, R, K>(to_float(x[row * columns + c]), chosen, format);
  }
}

// 16 bytes of x a lane, a block on columns / N neighbouring lanes. Grid: rows, block 128.
// Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, class Index>
__global__ void __launch_bounds__(128)
grouped_lanes(const T* x, u8* codes, void* scales, const Index* offsets, const Index* starts,
              int experts, const Whole* wholes, const __grid_constant__ Format format,
              i64 columns) {
  constexpr int N = 16 / sizeof(T);
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  const Whole whole = wholes ? wholes[expert] : Whole{1.0f, 1.0f};
  const int shift = 31 - __clz(format.columns / N), lanes = 1 << shift;
  const int count = int(columns / N);
#pragma unroll 1
  for (int base = 0; base < count; base += 128) {
    const int v = base + int(threadIdx.x);
    const Vector<T, N> loaded =
        v < count ? load<T, N>(x + row * columns + v * N) : Vector<T, N>{};
    u32 stored;
    const Vector<u8, N> made =
        quantize_lanes<T, Element, R, K>(loaded, lanes, format, whole, stored);
    if (v >= count) continue;
    store<u8, N>(codes + row * columns + v * N, made);
    if (v % lanes == 0)
      put_scale(scales, scale_place(row, v >> shift, count >> shift, expert, offsets, starts),
                stored, format.scale_type);
  }
}

// amaxes[e] = the largest amax among the finite blocks of expert e, as bits; zeroed before.
// Grid: rows, any block of whole warps. Exact.
template <class T, class Index>
__global__ void grouped_amax(const T* x, u32* amaxes, const Index* offsets, int experts,
                             const __grid_constant__ Format format, i64 columns) {
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  u32 amax = 0;
#pragma unroll 1
  for (i64 from = i64(threadIdx.x) * format.columns; from < columns;
       from += i64(blockDim.x) * format.columns) {
    u32 own = 0;
#pragma unroll 1
    for (i64 c = from; c < min(columns, from + format.columns); ++c)
      own = max(own, amax_of(Vector<T, 1>{{x[row * columns + c]}}, format.nonfinite));
    if (own < kInfinity || format.nonfinite == kSaturate) amax = max(amax, own);
  }
  amax = maximum_over(amax, 32);
  if (threadIdx.x % 32 == 0) atomicMax(&amaxes[expert], amax);
}

// The scales of 128x4 regions, row below row: to[row, block]. Grid: rows, any block. Exact.
template <class Index>
__global__ void linear_scales(const u8* tiled, u8* linear, const Index* offsets,
                              const Index* starts, int experts, i64 across) {
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  for (i64 block = threadIdx.x; block < across; block += blockDim.x)
    linear[row * across + block] =
        tiled[scale_place(row, block, across, expert, offsets, starts)];
}
