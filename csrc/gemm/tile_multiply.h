// Tiles of the kernels that multiply: sums in registers, spilled to int32 every Tile::spill_every steps. For any instruction set; what it
// provides is an Op:
//
//   Acc               what a row's sums of the columns of a Vec gather in
//   kRows, kVecs      rows, and Vecs of columns, that registers hold sums of
//   kSpills           whether sums may be too narrow for all of a K-block
//   kStepK            k of a step, which takes 4 bytes of packed A and 32 bytes of panel per unit:  | step 0: unit 0, 1 .. | step 1: ...
//   multiply(a, b, stride, pieces, count, acc)
//                     acc[rows][vecs] = the steps of the pieces, counted from the rows' starts `a`; b moves on, by `stride` per step
//   widen(acc)        int32, as a Vec
//   kAdds             whether there are, with acc the int32 sums themselves,
//   add(a, b, stride, pieces, count, acc)
//                     the same, added to acc
//   multiply_steps(t, a, b, stride, steps, c, acc), add_steps(...)
//                     all steps of a matrix's tile, while C from `c` on and what lies ahead are fetched
//
// and bitpacked_<isa>.h, which is included before.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// Whether the Op's sums span the kernel's whole panel, so that a tile starts at unit 0.
template <class Op>
constexpr bool kWholePanel = Op::kVecs * kVecUnits >= kPanelUnits;

// Where the units of a tile start.
template <class Op>
constexpr int start_of(int first_unit) {
  return kWholePanel<Op> ? 0 : first_unit;
}

// Bytes of panel from a step to the next.
template <class Op, int vecs>
int64_t stride_of(const Tile& t) {
  return int64_t{kWholePanel<Op> && kVecUnits == 1 ? vecs : t.units} * kVector;
}

template <int rows, int vecs>
void store_total(const Tile& t, int first_unit, const Vec (&term)[rows], const int32_t (&total)[rows][vecs][kVecCols]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_result(t, r, first_unit + v * kVecUnits, term[r], load_sums(total[r][v]));
  }
}

template <class Op, int rows, int vecs>
ULP_INLINE void spill(const typename Op::Acc (&acc)[rows][vecs], int32_t (&total)[rows][vecs][kVecCols]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_sums(total[r][v], add_sums(load_sums(total[r][v]), Op::widen(acc[r][v])));
  }
}

// A tile, or rows `first` .. of a Gather, where sums may start from what is to be added to them, terms or old values, so that nothing is
// left to do at the end.
template <class Op, int rows, int vecs>
void add_to_tile(const Tile& t, int first, int unit) {
  const int first_unit = start_of<Op>(unit);
  const int64_t ldc = t.ldc;  // copies that no store can alias
  const int units = t.units - first_unit;
  int32_t* c = t.c + first * ldc + first_unit * kUnitCols;
  Vec acc[rows][vecs];
  if (t.accumulate) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      ULP_UNROLL for (int v = 0; v < vecs; ++v) acc[r][v] = load_columns(c + r * ldc + v * kVecCols, units - v * kVecUnits);
    }
  } else {
    const int32_t* col = t.col + first_unit * kUnitCols;
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      const Vec start = load_columns(col + v * kVecCols, units - v * kVecUnits);
      ULP_UNROLL for (int r = 0; r < rows; ++r) acc[r][v] = start;
    }
    if (t.row) {
      ULP_UNROLL for (int r = 0; r < rows; ++r) {
        const Vec term = same_sums(t.row[first + r]);
        ULP_UNROLL for (int v = 0; v < vecs; ++v) acc[r][v] = add_sums(acc[r][v], term);
      }
    }
  }
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.gather ? t.gather->rows[first + r] : t.a + r * t.a_stride;
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t stride = stride_of<Op, vecs>(t);
  if (t.gather) {
    const Run* run = t.gather->runs;
    const Run* const end = run + t.gather->run_count;
    int64_t lines = t.ahead_lines;
    const uint8_t* ahead = t.ahead + first / Op::kRows * lines * 64;
    for (; lines > 0 && run != end; ++run) Op::add_while_fetching(ahead, lines, a, b, stride, run->pieces, run->count, acc);
    for (; run != end; ++run) Op::add(a, b, stride, run->pieces, run->count, acc);
  } else {
    Op::add_steps(t, a, b, stride, ceil_div(t.k, Op::kStepK), c, acc);
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int v = 0; v < vecs; ++v) store_columns(c + r * ldc + v * kVecCols, acc[r][v], units - v * kVecUnits);
  }
}

template <class Op, int rows, int vecs>
void tile(const Tile& args, int unit) {
  const int first_unit = start_of<Op>(unit);
  if constexpr (Op::kAdds) {
    // Old values may come from far: they are not waited for at the start.
    if (args.shift == 0 && !args.accumulate) return add_to_tile<Op, rows, vecs>(args, 0, unit);
  } else {
    prefetch_c<rows, vecs * kVecUnits>(args, first_unit);
  }
  const Tile t = own_copy(args);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.a + r * t.a_stride;
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t stride = stride_of<Op, vecs>(t);
  typename Op::Acc acc[rows][vecs];
  Piece piece{0, ceil_div(t.k, Op::kStepK)};
  if (!Op::kSpills || piece.steps <= t.spill_every) {
    if constexpr (Op::kAdds) {
      Op::multiply_steps(t, a, b, stride, piece.steps, t.c + first_unit * kUnitCols, acc);
    } else {
      Op::multiply(a, b, stride, &piece, 1, acc);
    }
    Vec sums[rows][vecs];
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) sums[r][v] = Op::widen(acc[r][v]); }
    return store_results(t, first_unit, sums);
  }
  if constexpr (Op::kSpills) {
    Vec term[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) term[r] = row_term(t, r);
    alignas(kVecBytes) int32_t total[rows][vecs][kVecCols] = {};
    for (int64_t left = piece.steps; left > 0; left -= piece.steps) {
      piece.steps = left < t.spill_every ? left : t.spill_every;
      Op::multiply(a, b, stride, &piece, 1, acc);
      piece.a += 4 * piece.steps;
      spill<Op>(acc, total);
    }
    store_total(t, first_unit, term, total);
  }
}

// Rows `first` .. of a Gather, C in cache: the usual layer has no row terms, and so few steps that each operation of the end counts.
template <class Op, int rows, int vecs>
void gather_tile(const Tile& t, int first, int unit) {
  if constexpr (Op::kAdds) {
    if (t.shift == 0) return add_to_tile<Op, rows, vecs>(t, first, unit);
  }
  const int first_unit = start_of<Op>(unit);
  const uint8_t* a[rows];
  ULP_UNROLL for (int r = 0; r < rows; ++r) a[r] = t.gather->rows[first + r];
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t stride = stride_of<Op, vecs>(t);
  const Run* run = t.gather->runs;
  typename Op::Acc acc[rows][vecs];
  Op::multiply(a, b, stride, run->pieces, run->count, acc);
  if (t.gather->run_count == 1 && !t.row && !t.accumulate && t.shift == 0) {
    const int64_t ldc = t.ldc;  // copies that no store can alias
    const int units = t.units - first_unit;
    int32_t* c = t.c + first * ldc + first_unit * kUnitCols;
    const int32_t* col = t.col + first_unit * kUnitCols;
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      const int left = units - v * kVecUnits;
      const Vec start = load_columns(col + v * kVecCols, left);
      ULP_UNROLL for (int r = 0; r < rows; ++r) store_columns(c + r * ldc + v * kVecCols, add_sums(Op::widen(acc[r][v]), start), left);
    }
    return;
  }
  alignas(kVecBytes) int32_t total[rows][vecs][kVecCols] = {};
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
  store_total(here, first_unit, term, total);
}

// `count` rows from `first`, at most `rows`.
template <class Op, int rows, int vecs>
void rows_of_gather(const Tile& t, int first, int count, int unit) {
  if constexpr (rows > 1) {
    if (count < rows) return rows_of_gather<Op, rows - 1, vecs>(t, first, count, unit);
  }
  gather_tile<Op, rows, vecs>(t, first, unit);
}

template <class Op, int rows, int vecs>
void rows_of_tile(const Tile& t, int unit) {
  if constexpr (rows > 1) {
    if (t.rows < rows) return rows_of_tile<Op, rows - 1, vecs>(t, unit);
  }
  tile<Op, rows, vecs>(t, unit);
}

template <class Op, int vecs>
void tile_of_vecs(const Tile& t, int unit) {
  constexpr int kRows = Op::kRows;
  if (!t.gather) return rows_of_tile<Op, kRows, vecs>(t, unit);
  int r = 0;
  for (; t.rows - r >= 2 * kRows || t.rows - r == kRows; r += kRows) gather_tile<Op, kRows, vecs>(t, r, unit);
  if (t.rows - r > kRows) {  // two and two rather than three and one
    const int half = (t.rows - r + 1) / 2;
    rows_of_gather<Op, kRows, vecs>(t, r, half, unit);
    r += half;
  }
  if (r < t.rows) rows_of_gather<Op, kRows - 1, vecs>(t, r, t.rows - r, unit);
}

// vecs: at most as many as the panel has left.
template <class Op, int vecs>
void tile_of_panel(const Tile& t) {
  if constexpr (vecs > 1) {
    if (t.units <= (vecs - 1) * kVecUnits) return tile_of_panel<Op, vecs - 1>(t);
  }
  tile_of_vecs<Op, vecs>(t, 0);
}

template <class Op>
void run(const Tile& t) {
  if constexpr (kWholePanel<Op>) return tile_of_panel<Op, Op::kVecs>(t);
  int unit = 0;
  for (; unit + Op::kVecs * kVecUnits <= t.units; unit += Op::kVecs * kVecUnits) tile_of_vecs<Op, Op::kVecs>(t, unit);
  for (; unit < t.units; unit += kVecUnits) tile_of_vecs<Op, 1>(t, unit);
}

}  // namespace
}  // namespace ulp
