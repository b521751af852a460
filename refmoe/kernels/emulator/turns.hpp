// Part of simt.hpp: in which order the threads of a block run.
#pragma once

namespace simt {

inline unsigned common_divisor(unsigned a, unsigned b) {
  return b ? common_divisor(b, a % b) : a;
}

// Each warp in turn, as far as it gets without the others: what it does too early shows.
inline void run_warps(unsigned first) {
  const unsigned count = (threads + 31) / 32;
  for (unsigned n = 0; n < count; ++n) {
    const unsigned start = (n + first) % count * 32;
    for (unsigned long long before = progress - 1; before != progress && finished < threads;) {
      before = progress;
      for (unsigned t = start; t < start + 32 && t < threads && finished < threads; ++t)
        if (!fibres[t].done) resume(t);
    }
  }
}

// Threads of a block take turns in an order that `seed` picks, warp by warp if it is odd: results
// must not depend on it.
inline void run_block(unsigned seed) {
  ++block_serial;
  finished = barrier_arrived = 0;
  memset(warps, 0, sizeof warps);
  for (unsigned t = 0; t < threads; ++t) fibres[t].done = false;
  unsigned stride = 1;
  if (seed && threads > 1) {
    stride = (seed * 2 + 1) % threads;
    while (stride == 0 || common_divisor(threads, stride) != 1)
      stride = stride % threads + 1;
  }
  while (finished < threads) {
    const unsigned long long before = progress;
    if (seed % 2 == 1) {
      run_warps(seed / 2);
    } else {
      for (unsigned n = 0; n < threads && finished < threads; ++n) {
        const unsigned t = static_cast<unsigned>((n * (unsigned long long)stride + seed) % threads);
        if (!fibres[t].done) resume(t);
      }
    }
    if (!error[0] && progress == before)
      snprintf(error, sizeof error, "block %u: threads wait for a barrier that others never reach",
               blockIdx.x);
    if (error[0]) {
      // Whoever is stuck in the middle of the kernel begins anew with the next launch.
      for (unsigned t = 0; t < kThreads; ++t) fibres[t].begun = false;
      return;
    }
  }
}

}  // namespace simt
