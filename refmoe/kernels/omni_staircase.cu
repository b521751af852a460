// The product-key router: the k largest of all sums x[i] + y[j], ids i n + j, by a walk over the
// sorted logits instead of all n^2 sums. See omni.cuh for order and rounding.
#include "omni.cuh"

constexpr i32 kSide = 256;  // the largest n of the fast kernel
constexpr i32 kSlots = 128;  // the largest k

// What one warp keeps of one token: its logits, the best of each by falling value, and entrants.
struct Board {
  float x[kSide], y[kSide];
  float best_x[kSlots], best_y[kSlots];
  i32 at_x[kSlots], at_y[kSlots];
  u64 list[kSlots];
};

// The `count` largest of values[first..last), by falling value.
__device__ __noinline__ void take_largest(const float* values, i32 first, i32 last, i32 count,
                                          float* best, i32* at) {
  u32 keys[kSide / 32];
#pragma unroll
  for (int v = 0; v < kSide / 32; ++v) {
    const i32 i = first + v * 32 + lane_of_thread();
    keys[v] = i < last ? sortable(values[i]) : 0u;
  }
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) {
    u32 key;
    const i32 index = best_of_warp(keys, key);
    remove(keys, index);
    if (lane_of_thread() == 0) {
      best[c] = values[first + index];
      at[c] = first + index;
    }
  }
  __syncwarp();
}

// Whether some sum can be NaN, which breaks the order that the staircase relies on.
__device__ __forceinline__ bool may_be_nan(const Board& board, i32 n) {
  bool nan = false, up_x = false, down_x = false, up_y = false, down_y = false;
  for (i32 i = lane_of_thread(); i < n; i += 32) {
    const float x = board.x[i], y = board.y[i];
    nan = nan || is_nan(x) || is_nan(y);
    up_x = up_x || x == infinity();
    down_x = down_x || x == -infinity();
    up_y = up_y || y == infinity();
    down_y = down_y || y == -infinity();
  }
  const u32 seen = __reduce_or_sync(
      kAllLanes, u32(nan) | u32(up_x) << 1 | u32(down_x) << 2 | u32(up_y) << 3 | u32(down_y) << 4);
  return seen & 1u || (seen & 2u && seen & 16u) || (seen & 4u && seen & 8u);
}

// Walks the staircase: the sums of the a-th best x and the b-th best y fall along both, so the
// best not yet taken stands at the front of some row a. Each lane holds the fronts of Q rows.
// Fills list[0..count) with the multiset of the best sums, and says whether sums equal to the
// last one may be missing that have smaller ids than those taken.
template <class Sum, int Q>
__device__ __forceinline__ bool walk_staircase(Board& board, i32 rows, i32 columns, i32 n,
                                               i32 count, bool more_rows) {
  const i32 lane = lane_of_thread();
  i32 front[Q];
  u32 keys[Q];
#pragma unroll
  for (int q = 0; q < Q; ++q) {
    const i32 a = q * 32 + lane;
    front[q] = 0;
    keys[q] = a < rows ? sortable(sum_of<Sum>(board.best_x[a], board.best_y[0])) : 0u;
  }
  u32 key = 0;
#pragma unroll 1
  for (i32 c = 0; c < count; ++c) {
    const i32 a = best_of_warp(keys, key);
#pragma unroll
    for (int q = 0; q < Q; ++q) {
      if (a != q * 32 + lane) continue;
      board.list[c] = entrant(key, board.at_x[a] * n + board.at_y[front[q]]);
      ++front[q];
      keys[q] = front[q] < columns
                    ? sortable(sum_of<Sum>(board.best_x[a], board.best_y[front[q]]))
                    : 0u;
    }
  }
  bool open = false;
#pragma unroll
  for (int q = 0; q < Q; ++q) {
    const i32 a = q * 32 + lane;
    // A front as good as the last; a row walked to the end of the y that were kept; rows behind
    // the last x that was kept.
    open = open || keys[q] == key || (a < rows && front[q] == columns && columns < n) ||
           (a == rows - 1 && front[q] > 0 && more_rows);
  }
  __syncwarp();
  return __any_sync(kAllLanes, open);
}

// Replaces the entrants equal to the last one by those of the smallest ids: rows in order, each
// scanned only if its best sum reaches that far.
template <class Sum>
__device__ __noinline__ void settle_ties(Board& board, i32 first, i32 last, i32 n, i32 count) {
  const i32 lane = lane_of_thread();
  const u32 key = key_of(board.list[count - 1]);
  i32 filled = count;
  while (filled > 0 && key_of(board.list[filled - 1]) == key) --filled;
  const float best_y = board.best_y[0];
  // Every lane has read the list before any writes to it.
  __syncwarp();
  for (i32 base = first; base < last && filled < count; base += 32) {
    const i32 own = base + lane;
    const bool reaches = own < last && sortable(sum_of<Sum>(board.x[own], best_y)) >= key;
    u32 open = __ballot_sync(kAllLanes, reaches);
    while (open && filled < count) {
      const i32 i = base + __ffs(int(open)) - 1;
      open &= open - 1u;
      for (i32 start = 0; start < n && filled < count; start += 32) {
        const i32 j = start + lane;
        const bool ties = j < n && sortable(sum_of<Sum>(board.x[i], board.y[j])) == key;
        const u32 found = __ballot_sync(kAllLanes, ties);
        const i32 place = filled + __popc(found & ((1u << lane) - 1u));
        if (ties && place < count) board.list[place] = entrant(key, i * n + j);
        filled = min(count, filled + __popc(found));
      }
    }
  }
  __syncwarp();
}

// The best `count` entrants of rows [first, last), as a set.
template <class Sum, int Q>
__device__ __forceinline__ void select_rows(Board& board, i32 first, i32 last, i32 n, i32 count) {
  struct Read {
    const float* from;
    __device__ __forceinline__ float operator()(i32 i) const { return from[i]; }
  };
  if (may_be_nan(board, n)) {
    brute_force<Sum>(Read{board.x}, Read{board.y}, first, last, n, count, board.list);
    return;
  }
  const i32 rows = min(last - first, count), columns = min(n, count);
  take_largest(board.x, first, last, rows, board.best_x, board.at_x);
  take_largest(board.y, 0, n, columns, board.best_y, board.at_y);
  if (walk_staircase<Sum, Q>(board, rows, columns, n, count, rows < last - first))
    settle_ties<Sum>(board, first, last, n, count);
}

// A group of W warps does a token: the rows x[i] are split among them, each takes the best k of
// its own, and every entrant's rank is the number of entrants ahead of it in all W lists.
// Grid: ceil(tokens / G), block 32 * W * G, shared W * G boards; k <= 32 Q <= 128, n <= 256.
template <class T, class Sum, class Id, int Q, int W, int G>
__global__ void __launch_bounds__(32 * W * G)
omni_route_staircase(const T* xs, const T* ys, i64 tokens, i32 n, i32 k, T* scores, Id* ids) {
  DYNAMIC_SHARED(memory);
  const i32 warp = i32(threadIdx.x / 32), member = warp % W, lane = lane_of_thread();
  const i64 token = i64(blockIdx.x) * G + warp / W;
  Board* boards = reinterpret_cast<Board*>(memory) + warp / W * W;
  Board& board = boards[member];
  const i32 share = (n + W - 1) / W, first = min(n, member * share), last = min(n, first + share);
  const i32 own = min(k, (last - first) * n);
  if (token < tokens) {
    for (i32 i = lane; i < n; i += 32) {
      board.x[i] = to_float(xs[token * n + i]);
      board.y[i] = to_float(ys[token * n + i]);
    }
    __syncwarp();
    if (own > 0) select_rows<Sum, Q>(board, first, last, n, own);
    for (i32 c = own + lane; c < k; c += 32) board.list[c] = 0;
  }
  if (W == 1) __syncwarp();
  else __syncthreads();
  if (token >= tokens) return;
  for (i32 c = lane; c < own; c += 32) {
    const u64 mine = board.list[c];
    i32 rank = 0;
    for (i32 w = 0; w < W; ++w)
#pragma unroll 4
      for (i32 other = 0; other < k; ++other) rank += boards[w].list[other] > mine;
    if (rank >= k) continue;
    const i32 id = id_of(mine);
    scores[token * k + rank] = from_float<T>(sum_of<Sum>(board.x[id / n], board.y[id % n]));
    ids[token * k + rank] = Id(id);
  }
}
