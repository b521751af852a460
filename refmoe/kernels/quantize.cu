// Values to codes and scales of a block format; see scales.cuh for the arithmetic.
#include "naive.cuh"

// Reads the whole tensor's scale of one leading index, {1, 1} without one.
__device__ __forceinline__ Whole whole_at(const Whole* wholes, i64 lead) {
  return wholes ? wholes[lead] : Whole{1.0f, 1.0f};
}

// Naive: one thread does one block, of any shape, short at the edges or not.
// Grid: ceil(blocks / block), any block. Rounding: scales.cuh; each code once.
template <Rounding R>
__global__ void quantize_naive(const void* x, u8* codes, void* scales, const Whole* wholes,
                               const __grid_constant__ Format format,
                               const __grid_constant__ Shape shape, i32 type) {
  const i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block >= shape.leads * shape.down * shape.across) return;
  const Place place = place_of(block, format, shape);
  const u32 amax = amax_at(x, place, type, format, shape);
  const Chosen chosen = choose_scale_as(amax, format, whole_at(wholes, place.lead));
  put_scale(scales, block, chosen.scale.stored, format.scale_type);
#pragma unroll 1
  for (i64 r = 0; r < place.rows; ++r)
#pragma unroll 1
    for (i64 c = 0; c < place.columns; ++c) {
      const i64 i = place.start + r * shape.columns + c;
      codes[i] = code_at<R>(x, i, type, chosen, format);
    }
}

// The chunk of the tensor that a thread block takes: the last first where another kernel has read
// the tensor just before, whose end is in the cache then.
__device__ __forceinline__ u32 chunk_of(bool read_before) {
  return read_before ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
}

// Blocks of one row on lanes = columns / N neighbouring lanes, of which S work out scales: a thread
// takes four vectors of 16 bytes that lie a warp's width apart.
// Grid: leads * chunks, block 256; a chunk is 1024 vectors. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int S, class Index>
__global__ void __launch_bounds__(256)
quantize_groups(const T* x, u8* codes, void* scales, const Whole* wholes,
                const __grid_constant__ Format format, i64 per_lead, i32 chunks) {
  constexpr int N = 16 / sizeof(T), U = 4;
  const int shift = 31 - __clz(format.columns / N), lanes = 1 << shift;
  const u32 chunk = chunk_of(wholes), lead = chunk / u32(chunks), lane = threadIdx.x % 32;
  const Index count = Index(per_lead / N), start = Index(lead) * count;
  const Index first = Index(chunk % u32(chunks)) * 1024 + threadIdx.x / 32 * 128 + lane;
  Held<T, N> loaded[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const Index v = first + 32 * u;
    loaded[u] = v < count ? hold<T, N>(x + (start + v) * N) : Held<T, N>{};
  }
  u32 stored[U / S];
  quantize_lanes<T, Element, R, K, S>(
      loaded, lanes, format, whole_at(wholes, lead), stored,
      [&](int u, const Held<u8, N>& made) {
        const Index v = first + 32 * u;
        if (v < count) put(codes + (start + v) * N, made);
      });
  if ((lane & (lanes - 1)) >= S) return;
#pragma unroll
  for (int s = 0; s < U / S; ++s) {
    const Index v = first + 32 * (s * S + lane % S);
    if (v < count) put_scale(scales, i64((start + v) >> shift), stored[s], format.scale_type);
  }
}

// The vectors of a block that one thread takes, every blockDim-th: where each lies in the tensor.
struct Walk {
  u32 row, column, vectors, down, across;
  __device__ __forceinline__ Walk(u32 first, u32 step, u32 vectors)
      : row(first / vectors), column(first % vectors), vectors(vectors), down(step / vectors),
        across(step % vectors) {}
  __device__ __forceinline__ void next() {
    row += down;
    column += across;
    if (column >= vectors) column -= vectors, ++row;
  }
  template <int N> __device__ __forceinline__ i64 at(const Place& place, i64 columns) const {
    return place.start + row * columns + i64(column) * N;
  }
};

// One block of values a thread block: tiles of several rows, whole rows. A thread keeps its first
// four vectors and reads what is beyond them a second time. Vectorised = rows of a tile start at a
// multiple of N. Grid: blocks, block up to 512. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int N>
__global__ void __launch_bounds__(512)
quantize_tiles(const T* x, u8* codes, void* scales, const Whole* wholes,
               const __grid_constant__ Format format, const __grid_constant__ Shape shape) {
  constexpr int U = 4;
  const u32 block = blockIdx.x, across = u32(shape.across), down = block / across;
  const u32 lead = down / u32(shape.down);
  const Place place = place_at(lead, down % u32(shape.down), block % across, format, shape);
  const i64 count = place.rows * (place.columns / N);
  Walk walk(threadIdx.x, blockDim.x, u32(place.columns / N));
  const Walk start = walk;
  i64 v = threadIdx.x;
  Held<T, N> held[U];
  u32 amax = 0;
  bool missing = false;
#pragma unroll
  for (int u = 0; u < U; ++u, v += blockDim.x, walk.next()) {
    held[u] = v < count ? hold<T, N>(x + walk.at<N>(place, shape.columns)) : Held<T, N>{};
  }
#pragma unroll
  for (int u = 0; u < U; ++u) amax = max(amax, amax_of(held[u], format.nonfinite, missing));
  const Walk rest = walk;
#pragma unroll 1
  for (i64 w = v; w < count; w += blockDim.x, walk.next())
    amax = max(amax, amax_of(hold<T, N>(x + walk.at<N>(place, shape.columns)), format.nonfinite,
                             missing));
  const Chosen chosen =
      choose_scale<K>(maximum_over_block(amax), format, whole_at(wholes, lead));
  if (threadIdx.x == 0) put_scale(scales, block, chosen.scale.stored, format.scale_type);
  walk = start;
#pragma unroll 1
  for (int u = 0; u < U; ++u, walk.next(), move_up(held)) {
    if (threadIdx.x + i64(u) * blockDim.x >= count) return;
    put(codes + walk.template at<N>(place, shape.columns),
        codes_of<T, Element, R, K>(held[0], chosen, format, missing));
  }
  walk = rest;
#pragma unroll 1
  for (; v < count; v += blockDim.x, walk.next()) {
    const i64 at = walk.at<N>(place, shape.columns);
    put(codes + at,
                 codes_of<T, Element, R, K>(hold<T, N>(x + at), chosen, format, missing));
  }
}

// amaxes[lead] = the largest amax among the finite blocks of each leading index, as bits; zeroed
// before. A block lies on `lanes` lanes of N values; with drop = 0 Inf and NaN count too.
// Grid: leads * chunks, block 256; a chunk is 2048 vectors. Exact.
template <class T, int N>
__global__ void __launch_bounds__(256)
whole_amax(const T* x, u32* amaxes, i64 per_lead, i32 chunks, int lanes, int nonfinite, int drop) {
  constexpr int U = 8;
  const u32 lead = blockIdx.x / u32(chunks);
  const i64 first = i64(blockIdx.x % u32(chunks)) * (256 * U) + threadIdx.x;
  u32 each[U], amax = 0;
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const i64 at = (first + 256 * u) * N;
    const Held<T, N> loaded =
        at < per_lead ? hold<T, N>(x + i64(lead) * per_lead + at) : Held<T, N>{};
    each[u] = amax_of(loaded, nonfinite);
    amax = max(amax, each[u]);
  }
  if (drop && nonfinite != kSaturate && __any_sync(kAllLanes, amax >= kInfinity)) {
    maximum_over(each, lanes);
    amax = 0;
#pragma unroll
    for (int u = 0; u < U; ++u) amax = max(amax, each[u] >= kInfinity ? 0u : each[u]);
  }
  amax = maximum_over_block(amax);
  if (threadIdx.x == 0 && amax > amaxes[lead]) atomicMax(&amaxes[lead], amax);
}

// The same for blocks of any shape: one thread a block. Grid: ceil(blocks / block), any block.
__global__ void whole_amax_naive(const void* x, u32* amaxes, const __grid_constant__ Format format,
                                 const __grid_constant__ Shape shape, i32 type) {
  const i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block >= shape.leads * shape.down * shape.across) return;
  const Place place = place_of(block, format, shape);
  const u32 amax = amax_at(x, place, type, format, shape);
  if (amax < kInfinity || format.nonfinite == kSaturate) atomicMax(&amaxes[place.lead], amax);
}

// Both directions of each leading index' scale, from its amax or from a decode scale that is
// given (one, or one each). Grid: ceil(leads / block), any block. Each operation one of fp32.
__global__ void whole_scales(const u32* amaxes, const float* given, i64 given_count, Whole* wholes,
                             float* decode, const __grid_constant__ Format format, i64 leads) {
  const i64 lead = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (lead >= leads) return;
  const Whole whole = given ? given_whole(given[given_count == 1 ? 0 : lead])
                            : whole_of(__uint_as_float(amaxes[lead]), format);
  wholes[lead] = whole;
  decode[lead] = whole.decode;
}

// Codes under one amax for each leading index (a scale per tensor), which also gets stored.
// Grid: leads * chunks, block 256; a chunk is 1024 vectors. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int N>
__global__ void __launch_bounds__(256)
quantize_whole(const T* x, u8* codes, void* scales, const u32* amaxes,
               const __grid_constant__ Format format, i64 per_lead, i32 chunks) {
  constexpr int U = 4;
  const u32 chunk = chunk_of(true), lead = chunk / u32(chunks);
  const i64 first = i64(chunk % u32(chunks)) * (256 * U) + threadIdx.x;
  const i64 start = i64(lead) * per_lead;
  Held<T, N> loaded[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    const i64 at = (first + 256 * u) * N;
    loaded[u] = at < per_lead ? hold<T, N>(x + start + at) : Held<T, N>{};
  }
  const Chosen chosen = choose_scale<K>(amaxes[lead], format, Whole{1.0f, 1.0f});
  if (first == 0) put_scale(scales, lead, chosen.scale.stored, format.scale_type);
#pragma unroll 1
  for (int u = 0; u < U; ++u, move_up(loaded)) {
    const i64 at = (first + 256 * u) * N;
    bool missing = false;
    amax_of(loaded[0], format.nonfinite, missing);
    if (at < per_lead)
      put(codes + start + at, codes_of<T, Element, R, K>(loaded[0], chosen, format, missing));
  }
}
