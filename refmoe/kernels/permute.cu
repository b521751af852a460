// Slots (token, choice) sorted by expert, stably, and back. Integers only: nothing is rounded.
//
// `ids` name experts; those in [first, first + experts) live here, all others (-1 too) have no
// row. Local expert e has the rows starts[e] to starts[e] + count[e]; with block > 1 every start
// is a multiple of it.
#include "warp.cuh"

__device__ __forceinline__ i32 padded(i32 count, i32 block) {
  return (count + block - 1) / block * block;
}

template <class Id>
__device__ __forceinline__ i32 local_expert(Id id, i64 first, i32 experts) {
  const i64 local = i64(id) - first;
  return local >= 0 && local < experts ? i32(local) : -1;
}

// Naive: the row of a slot is the number of slots that sort before it, counted one by one.
// Grid: ceil(slots / block), any block. rows and inverse are filled with their padding before.
template <class Id>
__global__ void permute_naive(const Id* ids, i32 slots, i64 first, i32 experts, i32 block,
                              i32* rows, i32* starts, i32* inverse) {
  const i32 slot = i32(blockIdx.x) * i32(blockDim.x) + i32(threadIdx.x);
  if (slot == 0) {
    i32 start = 0;
    for (i32 e = 0; e <= experts; ++e) {
      starts[e] = start;
      i32 count = 0;
      for (i32 s = 0; s < slots; ++s) count += local_expert(ids[s], first, experts) == e;
      start += padded(count, block);
    }
  }
  if (slot >= slots) return;
  const i32 own = local_expert(ids[slot], first, experts);
  if (own < 0) return;
  i32 row = 0;
  for (i32 e = 0; e < own; ++e) {
    i32 count = 0;
    for (i32 s = 0; s < slots; ++s) count += local_expert(ids[s], first, experts) == e;
    row += padded(count, block);
  }
  for (i32 s = 0; s < slot; ++s) row += local_expert(ids[s], first, experts) == own;
  rows[row] = slot;
  inverse[slot] = row;
}

// A warp's running counts of one chunk of slots lie in shared memory, one word per expert.
// `visit(slot, expert, rank)` sees every local slot with its rank among those before it.
template <class Id, class Visit>
__device__ __forceinline__ void walk_chunk(const Id* ids, i32 from, i32 to, i64 first, i32 experts,
                                           i32* counts, Visit visit) {
  for (i32 base = from; base < to; base += 32) {
    const i32 slot = base + lane_of_thread();
    const i32 expert = slot < to ? local_expert(ids[slot], first, experts) : -1;
    const u32 peers = __match_any_sync(kAllLanes, expert);
    const i32 before = __popc(peers & ((1u << lane_of_thread()) - 1u));
    if (expert >= 0) visit(slot, expert, counts[expert] + before);
    __syncwarp();
    if (expert >= 0 && before == 0) counts[expert] += __popc(peers);
    __syncwarp();
  }
}

// counts[expert * chunks + chunk] = local slots of each expert in each chunk of slots.
// Grid: ceil(chunks / warps), block 32 * warps, shared warps * experts words.
template <class Id>
__global__ void count_chunks(const Id* ids, i32 slots, i64 first, i32 experts, i32 chunks,
                             i32 per_chunk, i32* counts) {
  DYNAMIC_SHARED(memory);
  const i32 warp = i32(threadIdx.x / 32), warps = i32(blockDim.x / 32);
  const i32 chunk = i32(blockIdx.x) * warps + warp;
  i32* own = reinterpret_cast<i32*>(memory) + warp * experts;
  for (i32 e = lane_of_thread(); e < experts; e += 32) own[e] = 0;
  __syncwarp();
  if (chunk >= chunks) return;
  const i32 from = chunk * per_chunk;
  walk_chunk(ids, from, min(slots, from + per_chunk), first, experts, own,
             [](i32, i32, i32) {});
  for (i32 e = lane_of_thread(); e < experts; e += 32) counts[i64(e) * chunks + chunk] = own[e];
}

// Each expert's counts become the rows of earlier chunks; totals[e] is their sum.
// Grid: ceil(experts / 4), block 128.
__global__ void __launch_bounds__(128)
scan_chunks(i32* counts, i32* totals, i32 experts, i32 chunks) {
  const i32 expert = i32(blockIdx.x) * 4 + i32(threadIdx.x / 32);
  if (expert >= experts) return;
  i32* own = counts + i64(expert) * chunks;
  i32 sum = 0;
  for (i32 base = 0; base < chunks; base += 32) {
    const i32 chunk = base + lane_of_thread();
    const i32 value = chunk < chunks ? own[chunk] : 0;
    i32 total;
    const i32 before = prefix_over_warp(value, total);
    if (chunk < chunks) own[chunk] = sum + before;
    sum += total;
  }
  if (lane_of_thread() == 0) totals[expert] = sum;
}

// starts[e] = padded rows of the experts before e, for e = 0..experts, in a block's shared memory.
__device__ __forceinline__ void scan_totals(const i32* totals, i32 experts, i32 block,
                                            i32* starts) {
  i32 sum = 0;
  for (i32 base = 0; base < experts; base += i32(blockDim.x)) {
    const i32 e = base + i32(threadIdx.x);
    const i32 value = e < experts ? padded(totals[e], block) : 0;
    i32 total;
    const i32 before = prefix_over_block(value, total);
    if (e < experts) starts[e] = sum + before;
    sum += total;
  }
  if (threadIdx.x == 0) starts[experts] = sum;
  __syncthreads();
}

// Writes rows, inverse and starts. rows past an expert's last are `padding`, as are all rows past
// starts[experts] up to `capacity`; slots without a row have inverse -1.
// Grid: ceil(chunks / warps), block 32 * warps, shared (1 + experts) + warps * experts words.
template <class Id>
__global__ void place_slots(const Id* ids, i32 slots, i64 first, i32 experts, i32 block,
                            i32 chunks, i32 per_chunk, const i32* counts, const i32* totals,
                            i32* rows, i32 capacity, i32 padding, i32* starts, i32* inverse) {
  DYNAMIC_SHARED(memory);
  i32* begin = reinterpret_cast<i32*>(memory);
  scan_totals(totals, experts, block, begin);
  const i32 threads = i32(gridDim.x * blockDim.x);
  const i32 thread = i32(blockIdx.x * blockDim.x + threadIdx.x);
  if (blockIdx.x == 0)
    for (i32 e = i32(threadIdx.x); e <= experts; e += i32(blockDim.x)) starts[e] = begin[e];
  for (i32 row = begin[experts] + thread; row < capacity; row += threads) rows[row] = padding;
  if (block > 1)
    for (i32 e = thread; e < experts; e += threads)
      for (i32 row = begin[e] + totals[e]; row < begin[e + 1]; ++row) rows[row] = padding;
  const i32 warp = i32(threadIdx.x / 32), warps = i32(blockDim.x / 32);
  const i32 chunk = i32(blockIdx.x) * warps + warp;
  if (chunk >= chunks) return;
  i32* own = begin + 1 + experts + warp * experts;
  for (i32 e = lane_of_thread(); e < experts; e += 32)
    own[e] = begin[e] + counts[i64(e) * chunks + chunk];
  __syncwarp();
  const i32 from = chunk * per_chunk, to = min(slots, from + per_chunk);
  for (i32 slot = from + lane_of_thread(); slot < to; slot += 32)
    if (local_expert(ids[slot], first, experts) < 0) inverse[slot] = -1;
  walk_chunk(ids, from, to, first, experts, own, [&](i32 slot, i32, i32 row) {
    rows[row] = slot;
    inverse[slot] = row;
  });
}

// owners[b] = the expert whose rows block b holds, -1 past the last block.
// Grid: ceil(blocks / block), any block.
__global__ void block_owners(const i32* starts, i32 experts, i32 block, i32 blocks, i32* owners) {
  const i32 b = i32(blockIdx.x) * i32(blockDim.x) + i32(threadIdx.x);
  if (b >= blocks) return;
  i32 low = 0, high = experts;
  while (low < high) {
    const i32 middle = (low + high) / 2;
    if (starts[middle + 1] > b * block) high = middle;
    else low = middle + 1;
  }
  owners[b] = low < experts ? low : -1;
}

// inverse[slot] = the row that holds it; filled with -1 before. Rows of -1 hold none.
// Grid: ceil(rows / block), any block.
template <class Id>
__global__ void invert_rows(const Id* rows, i32 count, i32* inverse, i32 slots) {
  const i32 row = i32(blockIdx.x) * i32(blockDim.x) + i32(threadIdx.x);
  if (row >= count) return;
  const i64 slot = i64(rows[row]);
  if (slot >= 0 && slot < slots) inverse[slot] = row;
}

// starts[e] = rows of the experts before e when every region of offsets is padded to `block`.
// Grid: 1, block 1024.
template <class Id>
__global__ void __launch_bounds__(1024)
pad_regions(const Id* offsets, i32 experts, i32 block, Id* starts) {
  i32 sum = 0;
  for (i32 base = 0; base <= experts; base += 1024) {
    const i32 e = base + i32(threadIdx.x);
    const i32 value = e < experts ? padded(i32(offsets[e + 1] - offsets[e]), block) : 0;
    i32 total;
    const i32 before = prefix_over_block(value, total);
    if (e <= experts) starts[e] = sum + before;
    sum += total;
  }
}

// to[row] = from[rows[row] / choices], 0 where a row holds no slot: N values a thread.
// Grid: (rows, ceil(columns / (block * N))), any block. Exact.
template <class T, int N, class Index>
__global__ void gather_rows(const T* from, const i32* rows, i32 slots, i32 choices, T* to,
                            i64 columns) {
  const Index column = (Index(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (column >= Index(columns)) return;
  const i32 slot = rows[blockIdx.x];
  Vector<T, N> values = {};
  if (slot >= 0 && slot < slots)
    values = load<T, N>(from + (Index(slot / choices) * Index(columns) + column));
  store<T, N>(to + (Index(blockIdx.x) * Index(columns) + column), values);
}
