// Rows sorted by expert to codes and scales: expert e has rows offsets[e] to offsets[e + 1].
//
// With `starts` (multiples of 128) the scales of expert e stand in the 128x4 layout in a region of
// their own that starts at padded row starts[e]; without, row below row. Rows of no expert are
// left out.
#include "naive.cuh"

template <class Index>
__device__ __forceinline__ i64 scale_place(i64 row, i64 block, i64 across, int expert,
                                           const Index* offsets, const Index* starts) {
  if (!starts) return row * across + block;
  return offset_128x4(i64(starts[expert]) + row - i64(offsets[expert]), block, across);
}

// Naive: a thread does every blockDim-th block of a row. Grid: rows, any block.
// Rounding: scales.cuh; each code once.
template <Rounding R, class Index>
__global__ void grouped_naive(const void* x, u8* codes, void* scales, const Index* offsets,
                              const Index* starts, int experts, const Whole* wholes,
                              const __grid_constant__ Format format, i64 columns, i32 type) {
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  const Whole whole = wholes ? wholes[expert] : Whole{1.0f, 1.0f};
  const i64 across = (columns + format.columns - 1) / format.columns;
#pragma unroll 1
  for (i64 block = threadIdx.x; block < across; block += blockDim.x) {
    const i64 from = row * columns + block * format.columns;
    const i64 to = min((row + 1) * columns, from + format.columns);
    u32 amax = 0;
#pragma unroll 1
    for (i64 i = from; i < to; ++i) amax = max(amax, magnitude_at(x, i, type, format));
    const Chosen chosen = choose_scale_as(amax, format, whole);
    put_scale(scales, scale_place(row, block, across, expert, offsets, starts),
              chosen.scale.stored, format.scale_type);
#pragma unroll 1
    for (i64 i = from; i < to; ++i) codes[i] = code_at<R>(x, i, type, chosen, format);
  }
}

// A block on lanes = columns / N neighbouring lanes, of which S work out scales: a thread takes
// four vectors of 16 bytes at a time, a warp's width apart. Grid: rows, block 128.
// Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int S, class Index>
__global__ void __launch_bounds__(128)
grouped_lanes(const T* x, u8* codes, void* scales, const Index* offsets, const Index* starts,
              int experts, const Whole* wholes, const __grid_constant__ Format format,
              i64 columns) {
  constexpr int N = 16 / sizeof(T), U = 4;
  const i64 row = blockIdx.x;
  const int expert = expert_of(row, offsets, experts);
  if (expert == experts) return;
  const Whole whole = wholes ? wholes[expert] : Whole{1.0f, 1.0f};
  const int shift = 31 - __clz(format.columns / N), lanes = 1 << shift;
  const int count = int(columns / N), lane = int(threadIdx.x % 32);
#pragma unroll 1
  for (int base = 0; base < count; base += 128 * U) {
    const int first = base + int(threadIdx.x / 32) * 32 * U + lane;
    Held<T, N> loaded[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const int v = first + 32 * u;
      loaded[u] = v < count ? hold<T, N>(x + row * columns + i64(v) * N) : Held<T, N>{};
    }
    u32 stored[U / S];
    quantize_lanes<T, Element, R, K, S>(
        loaded, lanes, format, whole, stored, [&](int u, const Held<u8, N>& made) {
          const int v = first + 32 * u;
          if (v < count) put(codes + row * columns + i64(v) * N, made);
        });
    if ((lane & (lanes - 1)) >= S) continue;
#pragma unroll
    for (int s = 0; s < U / S; ++s) {
      const int v = first + 32 * (s * S + lane % S);
      if (v < count)
        put_scale(scales, scale_place(row, v >> shift, count >> shift, expert, offsets, starts),
                  stored[s], format.scale_type);
    }
  }
}

// amaxes[e] = the largest amax among the finite blocks of each expert, as bits; zeroed before.
// Grid: rows, any block of whole warps. Exact.
template <class Index>
__global__ void grouped_amax(const void* x, u32* amaxes, const Index* offsets, int experts,
                             const __grid_constant__ Format format, i64 columns, i32 type) {
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
      own = max(own, magnitude_at(x, row * columns + c, type, format));
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
