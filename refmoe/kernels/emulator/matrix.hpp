// mma.sync.m16n8: which lane holds which elements is the PTX ISA's "Matrix Fragments for
// mma.m16n8k16" (2 elements a word) and "... m16n8k32" (4). Products are exact and added to the
// sum one by one in the order of k, rounded to nearest each time: one of the orders that the
// units' own arithmetic stays close to, not their bits.
#pragma once
#include "simt.hpp"

namespace simt {

// What the first lane that comes back from the exchange works out for all of them.
template <class Sum> struct Product {
  unsigned long long stamp;
  Sum sums[16][8];
};

// Fast although all else is compiled for brevity: a whole verification goes through here.
template <class Sum, class Element>
__attribute__((optimize("O3"))) void whole_product(const unsigned (*table)[kWords],
                                                   unsigned per_word, Element element,
                                                   Sum (&sums)[16][8]) {
  Sum a[32][16], b[32][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned group = lane / 4, t = lane % 4;
    for (unsigned half = 0; half < 2; ++half)
      for (unsigned i = 0; i < per_word; ++i) {
        const unsigned k = per_word * t + i + 4 * per_word * half;
        a[k][group] = element(table[lane][2 * half], i);
        a[k][group + 8] = element(table[lane][1 + 2 * half], i);
        b[k][group] = element(table[lane][4 + half], i);
      }
    for (unsigned i = 0; i < 4; ++i)
      sums[group + i / 2 * 8][2 * t + i % 2] = unpack<Sum>(table[lane][6 + i]);
  }
  for (unsigned k = 0; k < 8 * per_word; ++k)
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned column = 0; column < 8; ++column)
        sums[row][column] += a[k][row] * b[k][column];
}

// Word r of a: row group + 8 (r % 2), columns P t + 4 P (r / 2) and on; word r of b: rows
// P t + 4 P r and on of column group; element i of c: row group + 8 (i / 2), column 2 t + i % 2.
// `element(word, i)` is element i of a word, as a number whose products Sum holds exactly.
template <class Sum, class Element>
void multiply_accumulate(Sum (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                         unsigned per_word, Element element) {
  static Product<Sum> products[kThreads / 32][2];
  unsigned own[kWords] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  for (unsigned i = 0; i < 4; ++i) own[6 + i] = bits<unsigned>(c[i]);
  const auto table = share(~0u, own);
  const unsigned generation = warps[current / 32].generation, lane = current % 32;
  Product<Sum>& product = products[current / 32][generation & 1];
  const unsigned long long stamp = block_serial << 32 | generation;
  if (product.stamp != stamp) {
    whole_product(table, per_word, element, product.sums);
    product.stamp = stamp;
  }
  for (unsigned i = 0; i < 4; ++i)
    c[i] = product.sums[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

}  // namespace simt
