// Values to codes and scales of a block format; see scales.cuh for the arithmetic.
#include "blocks.cuh"

// Reads the whole tensor's scale of one leading index, {1, 1} without one.
__device__ __forceinline__ Whole whole_at(const Whole* wholes, i64 lead) {
  return wholes ? wholes[lead] : Whole{1.0f, 1.0f};
}

// Naive: one thread does one block, of any shape, short at the edges or not.
// Grid: ceil(blocks / block), any block. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K>
__global__ void quantize_naive(const T* x, u8* codes, void* scales, const Whole* wholes,
                               const __grid_constant__ Format format,
                               const __grid_constant__ Shape shape) {
  const i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block >= shape.leads * shape.down * shape.across) return;
  const Place place = place_of(block, format, shape);
  u32 amax = 0;
#pragma unroll 1
  for (i64 r = 0; r < place.rows; ++r)
#pragma unroll 1
    for (i64 c = 0; c < place.columns; ++c) {
      const i64 i = place.start + r * shape.columns + c;
      amax = max(amax, amax_of(Vector<T, 1>{{x[i]}}, format.nonfinite));
    }
  const Chosen chosen = choose_scale<K>(amax, format, whole_at(wholes, place.lead));
  put_scale(scales, block, chosen.scale.stored, format.scale_type);
#pragma unroll 1
  for (i64 r = 0; r < place.rows; ++r)
#pragma unroll 1
    for (i64 c = 0; c < place.columns; ++c) {
      const i64 i = place.start + r * shape.columns + c;
      codes[i] = code_of<Element, R, K>(to_float(x[i]), chosen, format);
    }
}

// Blocks of one row: 16 bytes of x a lane, a block on lanes = columns / N neighbouring lanes.
// Grid: ceil(elements / (256 * N)), block 256. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, class Index>
__global__ void __launch_bounds__(256)
quantize_groups(const T* x, u8* codes, void* scales, const Whole* wholes,
                const __grid_constant__ Format format, i64 elements, i64 per_lead) {
  constexpr int N = 16 / sizeof(T);
  const int shift = 31 - __clz(format.columns / N), lanes = 1 << shift;
  const Index v = Index(blockIdx.x) * 256 + threadIdx.x;
  const bool inside = v < Index(elements / N);
  const i64 lead = wholes && inside ? i64(v) * N / per_lead : 0;
  const Vector<T, N> loaded = inside ? load<T, N>(x + v * N) : Vector<T, N>{};
  u32 stored;
  const Vector<u8, N> made = quantize_lanes<T, Element, R, K>(
      loaded, lanes, format, whole_at(wholes, lead), stored);
  if (!inside) return;
  store<u8, N>(codes + v * N, made);
  if (threadIdx.x % lanes == 0) put_scale(scales, i64(v >> shift), stored, format.scale_type);
}

// One block of values a thread block: tiles of several rows, whole rows. Values are read twice,
// the second time out of the cache. Vectorised = rows of a tile start at a multiple of N.
// Grid: blocks, block 256. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int N>
__global__ void __launch_bounds__(256)
quantize_tiles(const T* x, u8* codes, void* scales, const Whole* wholes,
               const __grid_constant__ Format format, const __grid_constant__ Shape shape) {
  const i64 block = blockIdx.x;
  const Place place = place_of(block, format, shape);
  const i64 vectors = place.columns / N, count = place.rows * vectors;
  u32 amax = 0;
#pragma unroll 1
  for (i64 v = threadIdx.x; v < count; v += 256) {
    const i64 at = place.start + v / vectors * shape.columns + v % vectors * N;
    amax = max(amax, amax_of(load<T, N>(x + at), format.nonfinite));
  }
  const Chosen chosen =
      choose_scale<K>(maximum_over_block(amax), format, whole_at(wholes, place.lead));
  if (threadIdx.x == 0) put_scale(scales, block, chosen.scale.stored, format.scale_type);
#pragma unroll 1
  for (i64 v = threadIdx.x; v < count; v += 256) {
    const i64 at = place.start + v / vectors * shape.columns + v % vectors * N;
    store<u8, N>(codes + at, codes_of<T, Element, R, K>(load<T, N>(x + at), chosen, format));
  }
}

// amaxes[lead] = the largest amax among the finite blocks of each leading index, as bits; zeroed
// before. A block lies on `lanes` lanes of N values; with drop = 0 Inf and NaN count too.
// Grid: (ceil(per_lead / (256 * N)), leads), block 256. Exact.
template <class T, int N>
__global__ void __launch_bounds__(256)
whole_amax(const T* x, u32* amaxes, i64 per_lead, int lanes, int nonfinite, int drop) {
  const i64 at = (i64(blockIdx.x) * 256 + threadIdx.x) * N;
  const Vector<T, N> loaded =
      at < per_lead ? load<T, N>(x + i64(blockIdx.y) * per_lead + at) : Vector<T, N>{};
  u32 amax = maximum_over(amax_of(loaded, nonfinite), lanes);
  if (drop && amax >= kInfinity && nonfinite != kSaturate) amax = 0u;
  amax = maximum_over_block(amax);
  if (threadIdx.x == 0) atomicMax(&amaxes[blockIdx.y], amax);
}

// The same for blocks of any shape: one thread a block. Grid: ceil(blocks / block), any block.
template <class T>
__global__ void whole_amax_naive(const T* x, u32* amaxes, const __grid_constant__ Format format,
                                 const __grid_constant__ Shape shape) {
  const i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (block >= shape.leads * shape.down * shape.across) return;
  const Place place = place_of(block, format, shape);
  u32 amax = 0;
#pragma unroll 1
  for (i64 r = 0; r < place.rows; ++r)
#pragma unroll 1
    for (i64 c = 0; c < place.columns; ++c) {
      const i64 i = place.start + r * shape.columns + c;
      amax = max(amax, amax_of(Vector<T, 1>{{x[i]}}, format.nonfinite));
    }
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
// Grid: (ceil(per_lead / (256 * N)), leads), block 256. Rounding: scales.cuh; each code once.
template <class T, class Element, Rounding R, Kind K, int N>
__global__ void __launch_bounds__(256)
quantize_whole(const T* x, const u32* amaxes, u8* codes, void* scales,
               const __grid_constant__ Format format, i64 per_lead) {
  const i64 lead = blockIdx.y;
  const Chosen chosen = choose_scale<K>(amaxes[lead], format, Whole{1.0f, 1.0f});
  const i64 v = i64(blockIdx.x) * 256 + threadIdx.x;
  if (v == 0) put_scale(scales, lead, chosen.scale.stored, format.scale_type);
  if (v >= per_lead / N) return;
  const i64 at = lead * per_lead + v * N;
  store<u8, N>(codes + at, codes_of<T, Element, R, K>(load<T, N>(x + at), chosen, format));
}
