// Asynchronous copies as late as the hardware may make them: nothing arrives before the wait that
// asks for it, so that a kernel which reads too early reads what was there before.
#pragma once
#include "simt.hpp"

namespace simt {

constexpr unsigned kInFlight = 64;

struct Copy {
  char* to;
  const char* from;
  unsigned bytes, valid, group;
};
struct Copies {
  Copy queue[kInFlight];
  unsigned count, group;
  unsigned long long block;
};
static Copies copies[kThreads];

// The current thread's, empty when its block starts.
inline Copies& own_copies() {
  Copies& own = copies[current];
  if (own.block != block_serial) {
    own.count = own.group = 0;
    own.block = block_serial;
  }
  return own;
}

inline void copy_later(void* to, const void* from, unsigned bytes, unsigned valid) {
  Copies& own = own_copies();
  if ((size_t)to % bytes || (valid && (size_t)from % bytes))
    fail("an asynchronous copy between addresses that are not aligned to its size");
  if (own.count == kInFlight) fail("more than 64 asynchronous copies of a thread in flight");
  own.queue[own.count++] = {static_cast<char*>(to), static_cast<const char*>(from), bytes, valid,
                            own.group};
}

inline void commit_copies() { ++own_copies().group; }

// Makes the copies of all but the last `pending` groups.
inline void wait_for_copies(unsigned pending) {
  Copies& own = own_copies();
  unsigned kept = 0;
  for (unsigned i = 0; i < own.count; ++i) {
    const Copy& copy = own.queue[i];
    if (copy.group + pending >= own.group) {
      own.queue[kept++] = copy;
      continue;
    }
    memcpy(copy.to, copy.from, copy.valid);
    memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
  }
  own.count = kept;
}

}  // namespace simt
