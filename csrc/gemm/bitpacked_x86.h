// What the kernels of both x86 vector widths share around a tile of C. For files of an instruction set only, after bitpacked_avx2.h or
// bitpacked_avx512.h has defined Vec and same_sums.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// The units of a bitpacked panel that a slice has from unit `first` on: where they lie in the first K-block, and how far it is to the next.
struct PanelUnits {
  const uint8_t* at;
  int64_t step;
  int count;

  PanelUnits(const BitpackedSlice& s, int first)
      : at(bitpacked_unit(s, 0, first)),
        step(bitpacked_unit(s, 1, first) - at),
        count(s.units - first < kPanelUnits ? s.units - first : kPanelUnits) {}
};

// C is written once per tile and by then has long left the first-level cache: fetched while the sums are made, the stores need not wait.
template <int rows, int units>
ULP_INLINE void prefetch_c(const Tile& t, const int32_t* first) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    const char* c = reinterpret_cast<const char*>(first + r * t.ldc);
    ULP_UNROLL for (int i = 0; i < units * kUnitCols * 4; i += 64) _mm_prefetch(c + i, _MM_HINT_T0);
  }
}
template <int rows, int units>
ULP_INLINE void prefetch_c(const Tile& t, int first_unit) {
  prefetch_c<rows, units>(t, t.c + first_unit * kUnitCols);
}

// What a row's results start from besides the columns' terms (or the old values): read before the first store to C, which might alias it.
ULP_INLINE Vec row_term(const Tile& t, int row) { return same_sums(t.accumulate || !t.row ? 0 : t.row[row]); }

}  // namespace
}  // namespace ulp
