// What the kernels of both x86 vector widths share around a tile of C. For files of an instruction set only, after bitpacked_avx2.h or
// bitpacked_avx512.h has defined Vec and same_sums.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// C is written once per tile and by then has long left the first-level cache: fetched while the sums are made, the stores need not wait.
template <int rows, int units>
ULP_INLINE void prefetch_c(const Tile& t, int first_unit) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    const char* c = reinterpret_cast<const char*>(t.c + r * t.ldc + first_unit * kUnitCols);
    ULP_UNROLL for (int i = 0; i < units * kUnitCols * 4; i += 64) _mm_prefetch(c + i, _MM_HINT_T0);
  }
}

// What a row's results start from besides the columns' terms (or the old values): read before the first store to C, which might alias it.
ULP_INLINE Vec row_term(const Tile& t, int row) { return same_sums(t.accumulate || !t.row ? 0 : t.row[row]); }

}  // namespace
}  // namespace ulp
