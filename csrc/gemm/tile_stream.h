// stream: a few rows of A against weights read straight from the bitpacked layout; nothing is expanded to memory. For any instruction set;
// an Op multiplies:
//
//   kVecs<rows>              Vecs of columns that are summed at a time
//   Sums<rows>               of the columns of a Vec and one of so many rows; zero at first
//   Operand                  what a step takes of a row of A
//   operand<j>(a)            of a row's codes from the K-block on: what step j takes
//   step<j>(sums, x, codes)  k = 4 j .. 4 j + 3 of the block
//   columns(sums)            int32, as a Vec
//
// and bitpacked_<isa>.h, which is included before.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// A K-block of the columns of `units` against the rows' codes from `a` on. Codes::vector<j>(units): what is multiplied in step j.
template <class Op, class Codes, int rows, int vecs>
ULP_INLINE void add_block(const Codes& weights, const Units (&units)[vecs], const uint8_t* a, int64_t a_stride,
                          typename Op::template Sums<rows> (&sums)[rows][vecs]) {
  // k outside, columns inside: an operand serves all of them.
  unrolled<8>([&](auto j) {
    typename Op::Operand x[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = Op::template operand<j.value>(a + r * a_stride);
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      const Vec codes = weights.template vector<j.value>(units[v]);
      ULP_UNROLL for (int r = 0; r < rows; ++r) Op::template step<j.value>(sums[r][v], x[r], codes);
    }
  });
}

// The weights' codes themselves.
template <int bits>
struct BitpackedCodes {
  template <int j>
  ULP_INLINE Vec vector(Units units) const {
    return code_vector<bits, j>(units);
  }
};

// The vecs from unit `first` on.
template <class Op, int bits, int rows, int vecs>
ULP_INLINE void tile(const Tile& t, int first) {
  typename Op::template Sums<rows> sums[rows][vecs];
  BitpackedSlice slice{t.b, 0, bits * kVector, t.units, t.units, 0, 1};
  const uint8_t* a = t.a;
  for (int64_t left = ceil_div(t.k, kUnitK); left > 0; --left, slice.data += t.units * bits * kVector, a += kUnitK) {
    Units units[vecs];
    ULP_UNROLL for (int v = 0; v < vecs; ++v) units[v] = units_of(slice, 0, first + v * kVecUnits);
    add_block<Op>(BitpackedCodes<bits>{}, units, a, t.a_stride, sums);
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_result(t, r, first + v * kVecUnits, row_term(t, r), Op::columns(sums[r][v]));
  }
}

template <class Op, int bits, int rows>
void run_stream(const Tile& args) {
  if constexpr (rows > 1) {
    if (args.rows < rows) return run_stream<Op, bits, rows - 1>(args);
  }
  const Tile t = own_copy(args);
  constexpr int kVecs = Op::template kVecs<rows>;
  int unit = 0;
  for (; unit + kVecs * kVecUnits <= t.units; unit += kVecs * kVecUnits) tile<Op, bits, rows, kVecs>(t, unit);
  if constexpr (kVecs * kVecUnits > 1) {
    for (; unit < t.units; unit += kVecUnits) tile<Op, bits, rows, 1>(t, unit);
  }
}

}  // namespace
}  // namespace ulp
