// mma.sync.m16n8: which lane holds which elements is the PTX ISA's "Matrix Fragments for
// mma.m16n8k16" (2 elements a word) and "... m16n8k32" (4). Products are exact and added to the
// sum one by one in the order of k, rounded to nearest each time: one of the orders that the
// units' own arithmetic stays close to, not their bits.
#pragma once
#include "simt.hpp"

namespace simt {

// Word r of a: row group + 8 (r % 2), columns P t + 4 P (r / 2) and on; word r of b: rows
// P t + 4 P r and on of column group; element i of c: row group + 8 (i / 2), column 2 t + i % 2.
// `add(sum, a, b, i)` adds the product of elements i of two words.
template <class Sum, class Add>
void multiply_accumulate(Sum (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                         unsigned per_word, Add add) {
  const unsigned own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto table = share(~0u, own);
  const unsigned lane = current % 32, group = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned high = i / 2, column = 2 * t + i % 2;
    for (unsigned half = 0; half < 2; ++half)
      for (unsigned quad = 0; quad < 4; ++quad)
        for (unsigned element = 0; element < per_word; ++element)
          c[i] = add(c[i], table[group * 4 + quad][high + 2 * half],
                     table[column * 4 + quad][4 + half], element);
  }
}

}  // namespace simt
