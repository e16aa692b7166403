// stream on ARM: a few rows of A against weights read straight from the bitpacked layout; nothing is expanded to memory. `Op` multiplies:
//
//   Sums                     of 8 columns of one row; zero at first
//   operand<j>(a)            of a row's codes from the K-block on: what step j takes
//   step<j>(sums, x, codes)  k = 4 j .. 4 j + 3 of the block, 8 columns
//   columns(sums)            8 int32
//
// Weights and activations are codes, neither centred, so A is read where it lies.
#pragma once

#include "bitpacked_neon.h"

namespace ulp {
namespace {

// Units first .. first + units - 1 of the panel.
template <class Op, int bits, int rows, int units>
ULP_INLINE void tile(const Tile& t, int first) {
  typename Op::Sums sums[rows][units];
  const uint8_t* bitpacked = t.b + first * bits * kVector;
  const uint8_t* a = t.a;
  for (int64_t left = ceil_div(t.k, kUnitK); left > 0; --left, bitpacked += t.units * bits * kVector, a += kUnitK) {
    // k outside, units inside: an operand serves all units.
    unrolled<8>([&](auto j) {
      uint8x16_t x[rows];
      ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = Op::template operand<j.value>(a + r * t.a_stride);
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        const Vec codes = code_vector<bits, j.value>(bitpacked + u * bits * kVector);
        ULP_UNROLL for (int r = 0; r < rows; ++r) Op::template step<j.value>(sums[r][u], x[r], codes);
      }
    });
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first + u, row_term(t, r), Op::columns(sums[r][u]));
  }
}

// One row takes two units at a time, more rows one.
template <class Op, int bits, int rows>
void run_stream(const Tile& args) {
  if constexpr (rows > 1) {
    if (args.rows < rows) return run_stream<Op, bits, rows - 1>(args);
  }
  const Tile t = args;  // a copy that no store to C can alias
  int unit = 0;
  if constexpr (rows == 1) {
    for (; unit + 2 <= t.units; unit += 2) tile<Op, bits, rows, 2>(t, unit);
  }
  for (; unit < t.units; ++unit) tile<Op, bits, rows, 1>(t, unit);
}

}  // namespace
}  // namespace ulp
