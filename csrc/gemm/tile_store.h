// The end of a tile, for any instruction set: included by bitpacked_<isa>.h, which defines the operations.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// The contract of kernel.h for the columns of a Vec in one row: terms or the old value, plus the shifted accumulator.
ULP_INLINE void store_result(const Tile& t, int row, int unit, Vec term, Vec acc) {
  int32_t* c = t.c + row * t.ldc + unit * kUnitCols;
  const Vec from = load_columns(t.accumulate ? c : t.col + unit * kUnitCols, t.units - unit);
  store_columns(c, add_sums(add_sums(from, term), shift_sums(acc, t.shift)), t.units - unit);
}

// All rows and Vecs of a tile, the sums of the units from `first` on. In the usual case, terms and nothing to shift, the columns' terms are
// read once for all rows and nothing is shifted.
template <int rows, int vecs>
ULP_INLINE void store_results(const Tile& t, int first, const Vec (&sums)[rows][vecs]) {
  Vec term[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) term[r] = row_term(t, r);
  if (t.shift == 0 && !t.accumulate) {
    const int32_t* col = t.col + first * kUnitCols;
    int32_t* c = t.c + first * kUnitCols;
    const int64_t ldc = t.ldc;
    const int units = t.units - first;
    ULP_UNROLL for (int v = 0; v < vecs; ++v, col += kVecCols, c += kVecCols) {
      const Vec start = load_columns(col, units - v * kVecUnits);
      ULP_UNROLL for (int r = 0; r < rows; ++r) {
        store_columns(c + r * ldc, add_sums(sums[r][v], add_sums(start, term[r])), units - v * kVecUnits);
      }
    }
    return;
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_result(t, r, first + v * kVecUnits, term[r], sums[r][v]);
  }
}

}  // namespace
}  // namespace ulp
