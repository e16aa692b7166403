// grouped: rows of A against weights in groups, read straight from the bitpacked layout (grouped_kernel.h). The sums of a group are those
// of stream (tile_stream.h), in int32; then they are scaled and added to floats. For any instruction set; besides what tile_stream.h
// asks for, its file defines
//
//   Op<bits>                an Op for codes of so many bits; Op<kTableBytes> one for what a table holds
//   Table, table_of(bytes)  16 signed bytes in the form that look_up takes
//   look_up(table, codes)   the bytes of a table, as the Op takes them
//   add_scaled(sums, of, scales, zeros, c)
//                           c += (float(sums + of.start) - zeros * of.sum) * (scales * of.scale) for the columns of a Vec, as grouped.h has
//                           it; zeros may be nullptr
//
// and includes bitpacked_<isa>.h before.
#pragma once

#include "grouped_kernel.h"
#include "tile_stream.h"

namespace ulp {
namespace {

constexpr int kTableBytes = 0;

// GroupedKernel::byte_bias where a table's bytes are raised by 128 and codes are not.
constexpr int raised_bias(int planes) { return planes == 0 ? 0 : planes == 1 ? 128 : 128 * 257; }

template <int bits>
struct TableCodes {
  Table table;
  template <int j>
  ULP_INLINE Vec vector(Units units) const {
    return look_up(table, code_vector<bits, j>(units));
  }
};

// The sums of a group's bytes; `slice` is at its first K-block.
template <class Op, class Codes, int rows, int vecs>
ULP_INLINE void group_sums(const GroupTile& t, const Codes& codes, BitpackedSlice slice, const uint8_t* a, int first,
                           Vec (&columns)[rows][vecs]) {
  typename Op::template Sums<rows> sums[rows][vecs];
  for (int64_t left = t.group_blocks; left > 0; --left, slice.data += t.units * slice.unit_bytes, a += kUnitK) {
    Units units[vecs];
    // Behind the last unit that one once more, whose sums are dropped.
    ULP_UNROLL for (int v = 0; v < vecs; ++v) {
      const int unit = first + v * kVecUnits;
      units[v] = units_of(slice, 0, unit < t.units ? unit : t.units - 1);
    }
    add_block<Op>(codes, units, a, t.a_stride, sums);
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vecs; ++v) columns[r][v] = Op::columns(sums[r][v]); }
}

// `rows` rows from `row` on, the vecs from unit `first` on.
template <class Op, int bits, int planes, int rows, int vecs>
ULP_INLINE void grouped_tile(const GroupTile& t, int64_t row, int first) {
  BitpackedSlice slice{t.b, 0, bits * kVector, t.units, t.units, 0, 1};
  const uint8_t* a = t.a + row * t.a_stride;
  const RowGroup* row_groups = t.row_groups + row * t.row_group_stride;
  float* c = t.c + row * kPanelCols;
  for (int64_t g = 0; g < t.groups; ++g) {
    Vec sums[rows][vecs];
    if constexpr (planes == 0) {
      group_sums<Op>(t, BitpackedCodes<bits>{}, slice, a, first, sums);
    } else {
      group_sums<Op>(t, TableCodes<bits>{table_of(t.table[0])}, slice, a, first, sums);
    }
    if constexpr (planes == 2) {
      Vec lower[rows][vecs];
      group_sums<Op>(t, TableCodes<bits>{table_of(t.table[1])}, slice, a, first, lower);
      ULP_UNROLL for (int r = 0; r < rows; ++r) {
        ULP_UNROLL for (int v = 0; v < vecs; ++v) sums[r][v] = add_sums(shift_sums(sums[r][v], 8), lower[r][v]);
      }
    }
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      const RowGroup& of = row_groups[r * t.row_group_stride + g];
      ULP_UNROLL for (int v = 0; v < vecs; ++v) {
        const int unit = first + v * kVecUnits;
        if (unit >= t.units) break;
        const int64_t at = (g * t.units + unit) * kUnitCols;
        add_scaled(sums[r][v], of, t.scales + at, t.zeros ? t.zeros + at : nullptr, c + r * kPanelCols + unit * kUnitCols);
      }
    }
    slice.data += t.group_blocks * t.units * slice.unit_bytes;
    a += t.group_blocks * kUnitK;
  }
}

// Tiles of max_rows rows, the rest in halves of that.
template <class Op, int bits, int planes, int max_rows>
void run_grouped(const GroupTile& args) {
  const GroupTile t = args;  // a copy that no store to C can alias
  constexpr int kVecs = Op::template kVecs<max_rows>;
  int64_t row = 0;
  for (; row + max_rows <= t.rows; row += max_rows) {
    for (int unit = 0; unit < t.units; unit += kVecs * kVecUnits) grouped_tile<Op, bits, planes, max_rows, kVecs>(t, row, unit);
  }
  if constexpr (max_rows > 1) {
    if (row == t.rows) return;
    GroupTile rest = t;
    rest.a += row * t.a_stride;
    rest.row_groups += row * t.row_group_stride;
    rest.c += row * kPanelCols;
    rest.rows -= static_cast<int>(row);
    run_grouped<Op, bits, planes, max_rows / 2>(rest);
  }
}

// The function for some bits and planes; tables have codes of 2 to 4 bits.
template <template <int> class Op, int max_rows>
void (*bind_grouped(int bits, int planes))(const GroupTile&) {
  return for_bits(bits, [planes](auto b) -> void (*)(const GroupTile&) {
    constexpr int kBits = decltype(b)::value;
    if constexpr (kBits >= 2 && kBits <= 4) {
      if (planes == 1) return &run_grouped<Op<kTableBytes>, kBits, 1, max_rows>;
      if (planes == 2) return &run_grouped<Op<kTableBytes>, kBits, 2, max_rows>;
    }
    return &run_grouped<Op<kBits>, kBits, 0, max_rows>;
  });
}

}  // namespace
}  // namespace ulp
