// A grid of threads on one CPU core: each thread of a block is a fibre, blocks run one after the
// other. Warp collectives and barriers wait for exactly the lanes they name;
// a lane that has left or never comes is an error, as the hardware's behaviour is undefined.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

struct dim3 { unsigned x, y, z; };

static dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace simt {

constexpr unsigned kStack = 128 * 1024;
constexpr unsigned kThreads = 1024;

constexpr unsigned kWords = 10;

struct Warp {
  unsigned arrived, mask, generation;
  unsigned long long slots[32], results[2][32];
  unsigned words[2][32][kWords];
};

struct Fibre {
  ucontext_t start;
  jmp_buf state;
  char* stack;
  bool begun, done;
};

static Fibre fibres[kThreads];
static Warp warps[kThreads / 32];
static ucontext_t scheduler_start;
static jmp_buf scheduler;
static unsigned current, threads, finished, barrier_arrived, barrier_generation;
static unsigned long long progress, block_serial;  // blocks run so far
static char error[256];
static char* dynamic_shared;
static void (*body)();

inline void yield() {
  if (_setjmp(fibres[current].state) == 0) _longjmp(scheduler, 1);
}

[[noreturn]] inline void fail(const char* what) {
  if (!error[0])
    snprintf(error, sizeof error, "block %u, thread %u: %s", blockIdx.x, current, what);
  fibres[current].done = true;
  finished = threads;
  yield();
  abort();
}

inline void fibre_main() {
  for (;;) {
    body();
    fibres[current].done = true;
    ++finished;
    ++progress;
    yield();
  }
}

inline void resume(unsigned thread) {
  current = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
               thread / (blockDim.x * blockDim.y)};
  Fibre& fibre = fibres[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fibre.begun) _longjmp(fibre.state, 1);
  fibre.begun = true;
  if (!fibre.stack) fibre.stack = static_cast<char*>(malloc(kStack));
  getcontext(&fibre.start);
  fibre.start.uc_stack.ss_sp = fibre.stack;
  fibre.start.uc_stack.ss_size = kStack;
  fibre.start.uc_link = nullptr;
  makecontext(&fibre.start, fibre_main, 0);
  setcontext(&fibre.start);
}

}  // namespace simt

#include "turns.hpp"

namespace simt {

inline void barrier() {
  if (finished) fail("__syncthreads after a thread of the block has left");
  const unsigned generation = barrier_generation;
  ++progress;
  if (++barrier_arrived == threads) {
    barrier_arrived = 0;
    ++barrier_generation;
    return;
  }
  while (barrier_generation == generation) yield();
}

// Every lane of `mask` hands in a value; all of them get the table of what the lanes handed in.
inline const unsigned long long* exchange(unsigned mask, unsigned long long value) {
  Warp& warp = warps[current / 32];
  const unsigned lane = current % 32;
  if (!(mask >> lane & 1)) fail("a warp collective whose mask leaves out the calling lane");
  for (unsigned other = 0; other < 32; ++other) {
    const unsigned thread = current / 32 * 32 + other;
    if ((mask >> other & 1) && (thread >= threads || fibres[thread].done))
      fail("a warp collective names a lane that has left or does not exist");
  }
  if (warp.arrived && warp.mask != mask) fail("lanes of a warp disagree on a collective's mask");
  warp.mask = mask;
  warp.slots[lane] = value;
  warp.arrived |= 1u << lane;
  const unsigned generation = warp.generation;
  ++progress;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    memcpy(warp.results[++warp.generation & 1], warp.slots, sizeof warp.slots);
  } else {
    while (warp.generation == generation) yield();
  }
  return warp.results[(generation + 1) & 1];
}

// The same for several words a lane.
template <unsigned N> const unsigned (*share(unsigned mask, const unsigned (&own)[N]))[kWords] {
  static_assert(N <= kWords);
  Warp& warp = warps[current / 32];
  unsigned (&table)[32][kWords] = warp.words[(warp.generation + 1) & 1];
  memcpy(table[current % 32], own, sizeof own);
  exchange(mask, 0);
  return table;
}

template <class T> unsigned long long pack(T value) {
  unsigned long long bits = 0;
  static_assert(sizeof(T) <= 8);
  memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T> T unpack(unsigned long long bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class To, class From> To bits(From from) { return unpack<To>(pack(from)); }

template <class T> T pick(unsigned mask, T value, unsigned source) {
  const unsigned long long* table = exchange(mask, pack(value));
  if (!(mask >> (source & 31) & 1)) fail("a shuffle reads a lane outside its mask");
  return unpack<T>(table[source & 31]);
}

template <class T, class F> T fold(unsigned mask, T value, F combine) {
  const unsigned long long* table = exchange(mask, pack(value));
  bool first = true;
  T total{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const T other = unpack<T>(table[lane]);
    total = first ? other : combine(total, other);
    first = false;
  }
  return total;
}

template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I> struct Count<0, I...> { using type = Indices<I...>; };

static void** arguments;
template <class... P, unsigned... I> void invoke(void (*kernel)(P...), Indices<I...>) {
  kernel(*static_cast<P*>(arguments[I])...);
}

// Runs `kernel` over the grid; the sizes of the arguments handed in must be its parameters'.
template <auto Kernel, class... P>
const char* launch(void (*)(P...), const unsigned* grid, const unsigned* block, unsigned shared,
                   void** values, const unsigned* sizes, unsigned count, unsigned seed) {
  const unsigned wanted[] = {static_cast<unsigned>(sizeof(P))...};
  error[0] = 0;
  if (count != sizeof...(P)) {
    snprintf(error, sizeof error, "%u arguments for %u parameters", count,
             static_cast<unsigned>(sizeof...(P)));
    return error;
  }
  for (unsigned i = 0; i < count; ++i) {
    if (sizes[i] == wanted[i]) continue;
    snprintf(error, sizeof error, "argument %u has %u bytes, its parameter %u", i, sizes[i],
             wanted[i]);
    return error;
  }
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  threads = block[0] * block[1] * block[2];
  if (threads == 0 || threads > kThreads) return "a block has 1 to 1024 threads";
  arguments = values;
  dynamic_shared = static_cast<char*>(aligned_alloc(128, (shared + 127) / 128 * 128 + 128));
  body = [] { invoke<P...>(Kernel, typename Count<sizeof...(P)>::type{}); };
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0] && !error[0]; ++x) {
        blockIdx = {x, y, z};
        memset(dynamic_shared, 0xA5, shared);
        run_block(seed);
      }
  free(dynamic_shared);
  return error[0] ? error : nullptr;
}

}  // namespace simt
