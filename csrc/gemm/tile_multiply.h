// Tiles of the kernels that multiply: rows x 32 columns, sums in registers, spilled to int32 every Tile::spill_every steps. For any
// instruction set; what it provides is an Op:
//
//   Acc               what a row's sums of 8 columns gather in
//   kRows, kUnits     rows, and units of 8 columns, that registers hold sums of
//   kStepK            k of a step, which takes 4 bytes of packed A and 32 bytes of panel per unit:  | step 0: unit 0 .. 3 | step 1: ...
//   multiply(a, b, stride, pieces, count, acc)
//                     acc[rows][units] = the steps of the pieces, counted from the rows' starts `a`; b moves on, by `stride` a step
//   widen(acc)        8 int32, as a Vec
//
// and bitpacked_<isa>.h, which is included before.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// Where the units of a tile start; it is the whole panel where registers allow.
template <class Op>
constexpr int start_of(int first_unit) {
  return Op::kUnits == kPanelUnits ? 0 : first_unit;
}

// Bytes of panel from a step to the next.
template <class Op, int units>
int64_t stride_of(const Tile& t) {
  return int64_t{Op::kUnits == kPanelUnits ? units : t.units} * kVector;
}

template <class Op, int rows, int units>
void store_total(const Tile& t, int first_unit, const Vec (&term)[rows], const int32_t (&total)[rows][units][kUnitCols]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first_unit + u, term[r], load_sums(total[r][u]));
  }
}

template <class Op, int rows, int units>
ULP_INLINE void spill(const typename Op::Acc (&acc)[rows][units], int32_t (&total)[rows][units][kUnitCols]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_sums(total[r][u], add_sums(load_sums(total[r][u]), Op::widen(acc[r][u])));
  }
}

template <class Op, int rows, int units>
void tile(const Tile& args, int unit) {
  const Tile t = args;  // a copy that no store to C can alias
  const int first_unit = start_of<Op>(unit);
  prefetch_c<rows, units>(t, first_unit);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t stride = stride_of<Op, units>(t);
  Vec term[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) term[r] = row_term(t, r);
  typename Op::Acc acc[rows][units];
  Piece piece{0, ceil_div(t.k, Op::kStepK)};
  if (piece.steps <= t.spill_every) {
    Op::multiply(a, b, stride, &piece, 1, acc);
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first_unit + u, term[r], Op::widen(acc[r][u]));
    }
    return;
  }
  alignas(32) int32_t total[rows][units][kUnitCols] = {};
  for (int64_t left = piece.steps; left > 0; left -= piece.steps) {
    piece.steps = left < t.spill_every ? left : t.spill_every;
    Op::multiply(a, b, stride, &piece, 1, acc);
    piece.a += 4 * piece.steps;
    spill<Op>(acc, total);
  }
  store_total<Op>(t, first_unit, term, total);
}

// Rows `first` .. of a Gather, C in cache: the usual layer has no row terms, and so few steps that each operation of the end counts.
template <class Op, int rows, int units>
void gather_tile(const Tile& t, int first, int unit) {
  const int first_unit = start_of<Op>(unit);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.gather->rows[first + r];
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t stride = stride_of<Op, units>(t);
  const Run* run = t.gather->runs;
  typename Op::Acc acc[rows][units];
  Op::multiply(a, b, stride, run->pieces, run->count, acc);
  if (t.gather->run_count == 1 && !t.row && !t.accumulate && t.shift == 0) {
    const int64_t ldc = t.ldc;  // copies that no store can alias
    uint8_t* c = reinterpret_cast<uint8_t*>(t.c + first * ldc + first_unit * kUnitCols);
    const uint8_t* col = reinterpret_cast<const uint8_t*>(t.col + first_unit * kUnitCols);
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      const Vec start = load(col + u * kVector);
      ULP_UNROLL for (int r = 0; r < rows; ++r) store(c + 4 * r * ldc + u * kVector, add_sums(Op::widen(acc[r][u]), start));
    }
    return;
  }
  alignas(32) int32_t total[rows][units][kUnitCols] = {};
  spill<Op>(acc, total);
  for (++run; run != t.gather->runs + t.gather->run_count; ++run) {
    Op::multiply(a, b, stride, run->pieces, run->count, acc);
    spill<Op>(acc, total);
  }
  Tile here = t;
  here.c += first * t.ldc;
  if (t.row) here.row += first;
  Vec term[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) term[r] = row_term(here, r);
  store_total<Op>(here, first_unit, term, total);
}

template <class Op, int units>
void tile_of_units(const Tile& t, int unit) {
  static_assert(Op::kRows == 3, "the cases below");
  if (t.gather) {
    int r = 0;
    for (; t.rows - r > 4 || t.rows - r == 3; r += 3) gather_tile<Op, 3, units>(t, r, unit);
    for (; t.rows - r >= 2; r += 2) gather_tile<Op, 2, units>(t, r, unit);  // two and two rather than three and one
    if (t.rows - r == 1) gather_tile<Op, 1, units>(t, r, unit);
    return;
  }
  switch (t.rows) {
    case 1:
      return tile<Op, 1, units>(t, unit);
    case 2:
      return tile<Op, 2, units>(t, unit);
    default:
      return tile<Op, 3, units>(t, unit);
  }
}

template <class Op>
void run(const Tile& t) {
  if constexpr (Op::kUnits == kPanelUnits) {
    switch (t.units) {
      case 1:
        return tile_of_units<Op, 1>(t, 0);
      case 2:
        return tile_of_units<Op, 2>(t, 0);
      case 3:
        return tile_of_units<Op, 3>(t, 0);
      default:
        return tile_of_units<Op, 4>(t, 0);
    }
  }
  int unit = 0;
  for (; unit + Op::kUnits <= t.units; unit += Op::kUnits) tile_of_units<Op, Op::kUnits>(t, unit);
  for (; unit < t.units; ++unit) tile_of_units<Op, 1>(t, unit);
}

}  // namespace
}  // namespace ulp
