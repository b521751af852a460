// mma.sync.m16n8: which lane holds which elements is the PTX ISA's "Matrix Fragments for
// mma.m16n8k16" (2 elements a word) and "... m16n8k32" (4).
//
// Floats are added as the units add them, to the bit. A step takes `terms` products and the sum
// so far, cuts each toward zero to a multiple of 2^(E - fraction), and adds them exactly; E is
// the largest exponent among those that are not zero (a product's: the sum of its operands'
// exponents as stored), `least_alignment` or more. The result is cut toward zero to fp32.
#pragma once
#include "simt.hpp"

namespace simt {

struct MatrixUnit {
  unsigned terms;
  int fraction, least_alignment;
};
static MatrixUnit matrix_unit;

constexpr unsigned kRows = 16, kColumns = 8, kDepth = 32;
constexpr short kNoExponent = -8192, kNotFinite = 128;

// The exponent with which a format stores x, 2^least being its least normal value.
inline short stored_exponent(float x, int least) {
  const int exponent = int(bits<unsigned>(x) >> 23 & 255) - 127;
  return short(x == 0.0f ? kNoExponent : exponent > least ? exponent : least);
}

// Operands of one instruction, in the order of k.
template <class Number> struct Tiles {
  Number a[kDepth][kRows], b[kDepth][kColumns];
  short a_exponents[kDepth][kRows], b_exponents[kDepth][kColumns];
  bool finite;
};

// Whether `sum` + products is no finite number by the terms alone, and then which.
inline bool special(const Tiles<double>& tiles, unsigned k, unsigned stop, unsigned row,
                    unsigned column, float& sum) {
  bool nan = sum != sum, plus = sum == HUGE_VALF, minus = sum == -HUGE_VALF;
  for (; k < stop; ++k) {
    const double product = tiles.a[k][row] * tiles.b[k][column];
    nan |= product != product, plus |= product == HUGE_VAL, minus |= product == -HUGE_VAL;
  }
  if (nan || (plus && minus)) sum = bits<float>(0x7FFFFFFFu);
  else if (plus || minus) sum = plus ? HUGE_VALF : -HUGE_VALF;
  else return false;
  return true;
}

// One step for one row, products k up to `stop`: fast, as a whole verification goes through it.
__attribute__((optimize("O3"))) inline void add_step(const Tiles<double>& tiles, unsigned first,
                                                     unsigned stop, unsigned row,
                                                     const short (&sum_exponents)[kColumns],
                                                     float (&sums)[kColumns]) {
  const short least = short(matrix_unit.least_alignment);
  short top[kColumns];
  long long up[kColumns], down[kColumns];
  double scale[kColumns], grain[kColumns], total[kColumns];
  for (unsigned n = 0; n < kColumns; ++n)
    top[n] = sum_exponents[n] > least ? sum_exponents[n] : least;
  for (unsigned k = first; k < stop; ++k)
    for (unsigned n = 0; n < kColumns; ++n) {
      const short exponent = short(tiles.a_exponents[k][row] + tiles.b_exponents[k][n]);
      top[n] = exponent > top[n] ? exponent : top[n];
    }
  for (unsigned n = 0; n < kColumns; ++n) {
    const int power = matrix_unit.fraction - top[n];
    up[n] = (long long)(1023 + power) << 52;
    down[n] = (long long)(1023 - power) << 52;
  }
  memcpy(scale, up, sizeof scale);
  memcpy(grain, down, sizeof grain);
  for (unsigned n = 0; n < kColumns; ++n) total[n] = int(double(sums[n]) * scale[n]);
  for (unsigned k = first; k < stop; ++k)
    for (unsigned n = 0; n < kColumns; ++n)
      total[n] += int(tiles.a[k][row] * tiles.b[k][n] * scale[n]);
  for (unsigned n = 0; n < kColumns; ++n) {
    const double exact = total[n] * grain[n];
    float cut = float(exact);
    if (fabs(double(cut)) > fabs(exact) && fabs(exact) < 0x1p128) {
      unsigned word;
      memcpy(&word, &cut, sizeof word);
      --word;
      memcpy(&cut, &word, sizeof cut);
    }
    sums[n] = cut;
  }
}

inline void add_products(const Tiles<double>& tiles, unsigned depth,
                         float (&sums)[kRows][kColumns]) {
  for (unsigned first = 0; first < depth; first += matrix_unit.terms)
    for (unsigned row = 0; row < kRows; ++row) {
      const unsigned stop = first + matrix_unit.terms;
      float before[kColumns];
      short exponents[kColumns];
      bool finite = tiles.finite;
      memcpy(before, sums[row], sizeof before);
      for (unsigned n = 0; n < kColumns; ++n) {
        exponents[n] = stored_exponent(before[n], -126);
        finite &= exponents[n] != kNotFinite;
      }
      add_step(tiles, first, stop, row, exponents, sums[row]);
      for (unsigned n = 0; n < kColumns && !finite; ++n)
        if (special(tiles, first, stop, row, n, before[n])) sums[row][n] = before[n];
    }
}

inline void add_products(const Tiles<int>& tiles, unsigned depth,
                         int (&sums)[kRows][kColumns]) {
  for (unsigned k = 0; k < depth; ++k)
    for (unsigned row = 0; row < kRows; ++row)
      for (unsigned n = 0; n < kColumns; ++n) sums[row][n] += tiles.a[k][row] * tiles.b[k][n];
}

template <class Sum> struct Widened { using Type = int; };
template <> struct Widened<float> { using Type = double; };

// What the first lane that comes back from the exchange works out for all of them.
template <class Sum> struct Product {
  unsigned long long stamp;
  Sum sums[kRows][kColumns];
};

template <class Sum, class Element>
void whole_product(const unsigned (*table)[kWords], unsigned per_word, int least,
                   Element element, Sum (&sums)[kRows][kColumns]) {
  static Tiles<typename Widened<Sum>::Type> tiles;
  tiles.finite = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned group = lane / 4, t = lane % 4;
    for (unsigned word = 0; word < 6; ++word)
      for (unsigned i = 0; i < per_word; ++i) {
        const unsigned half = word < 4 ? word / 2 : word - 4;
        const unsigned k = per_word * t + i + 4 * per_word * half;
        const Sum value = element(table[lane][word], i);
        const short exponent = stored_exponent(float(value), least);
        tiles.finite &= exponent != kNotFinite;
        if (word < 4) {
          tiles.a[k][group + word % 2 * 8] = value;
          tiles.a_exponents[k][group + word % 2 * 8] = exponent;
        } else {
          tiles.b[k][group] = value;
          tiles.b_exponents[k][group] = exponent;
        }
      }
    for (unsigned i = 0; i < 4; ++i)
      sums[group + i / 2 * 8][2 * t + i % 2] = unpack<Sum>(table[lane][6 + i]);
  }
  add_products(tiles, 8 * per_word, sums);
}

// Word r of a: row group + 8 (r % 2), columns P t + 4 P (r / 2) and on; word r of b: rows
// P t + 4 P r and on of column group; element i of c: row group + 8 (i / 2), column 2 t + i % 2.
// `element(word, i)` is element i of a word, of a format whose least normal value is 2^least.
template <class Sum, class Element>
void multiply_accumulate(Sum (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                         unsigned per_word, int least, Element element) {
  static Product<Sum> products[kThreads / 32][2];
  unsigned own[kWords] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  for (unsigned i = 0; i < 4; ++i) own[6 + i] = bits<unsigned>(c[i]);
  const auto table = share(~0u, own);
  const unsigned generation = warps[current / 32].generation, lane = current % 32;
  Product<Sum>& product = products[current / 32][generation & 1];
  const unsigned long long stamp = block_serial << 32 | generation;
  if (product.stamp != stamp) {
    whole_product(table, per_word, least, element, product.sums);
    product.stamp = stamp;
  }
  for (unsigned i = 0; i < 4; ++i)
    c[i] = product.sums[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

}  // namespace simt
