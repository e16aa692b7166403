// mul8, portable: 4 x 8 tile, any bit pair, any CPU. The other kernels' results are held against the numpy reference, as are this one's.
//
// Panel: the unit's eight vectors as they decode (layout.h): 8 columns x 4 k per step. A: codes.
// Accumulator: uint32, whose wrap-around is the modulo 2^32 that the driver expects, so there is no bound to keep.
#include "../pack/pack.h"
#include "kernel.h"

namespace ulp::mul8_scalar {
namespace {

constexpr int kRows = 4;

void expand(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      decode_unit(bitpacked_unit(s, kb, u), static_cast<int>(s.unit_bytes / kVector), panel + (kb * s.units + u) * kUnitCodes);
    }
  }
}

// Steps k0 / 4 .. of the panel's unit u on the rows' bytes from `at` on.
void multiply(const Tile& t, int u, const uint8_t* const (&rows)[kRows], const Piece& piece, int64_t k0,
              uint32_t (&acc)[kRows][kUnitCols]) {
  for (int64_t i = 0; i < piece.steps; ++i) {
    const int64_t k = k0 + 4 * i;
    const uint8_t* b = t.b + (k / kUnitK * t.units + u) * kUnitCodes + k % kUnitK / 4 * kVector;
    for (int r = 0; r < t.rows; ++r) {
      const uint8_t* a = rows[r] + piece.a + 4 * i;
      for (int c = 0; c < kUnitCols; ++c) {
        acc[r][c] +=
            uint32_t{a[0]} * b[4 * c] + uint32_t{a[1]} * b[4 * c + 1] + uint32_t{a[2]} * b[4 * c + 2] + uint32_t{a[3]} * b[4 * c + 3];
      }
    }
  }
}

void run_rows(const Tile& t) {
  const uint8_t* rows[kRows] = {};
  for (int r = 0; r < t.rows; ++r) rows[r] = t.gather ? t.gather->rows[r] : t.a + r * t.a_stride;
  const Piece all{0, ceil_div(t.k, 4)};
  const Run whole{&all, 1};
  const Run* runs = t.gather ? t.gather->runs : &whole;
  const int64_t run_count = t.gather ? t.gather->run_count : 1;
  for (int u = 0; u < t.units; ++u) {
    uint32_t acc[kRows][kUnitCols] = {};
    int64_t k = 0;
    for (int64_t i = 0; i < run_count; ++i) {
      for (int64_t j = 0; j < runs[i].count; ++j) {
        multiply(t, u, rows, runs[i].pieces[j], k, acc);
        k += 4 * runs[i].pieces[j].steps;
      }
    }
    for (int r = 0; r < t.rows; ++r) {
      int32_t* out = t.c + r * t.ldc + u * kUnitCols;
      for (int c = 0; c < kUnitCols; ++c) {
        const uint32_t from = static_cast<uint32_t>(t.accumulate ? out[c] : 0);
        const uint32_t terms =
            t.accumulate ? 0 : static_cast<uint32_t>(t.row ? t.row[r] : 0) + static_cast<uint32_t>(t.col[u * kUnitCols + c]);
        out[c] = static_cast<int32_t>(from + terms + (acc[r][c] << t.shift));
      }
    }
  }
}

void run(const Tile& t) {
  Tile part = t;
  Gather gather{};
  if (t.gather) {
    gather = *t.gather;
    part.gather = &gather;
  }
  for (int left = t.rows; left > 0; left -= part.rows) {
    part.rows = left < kRows ? left : kRows;
    run_rows(part);
    if (t.gather) gather.rows += part.rows;
    part.c += part.rows * t.ldc;
    if (part.row) part.row += part.rows;
  }
}

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int) {
  KernelAtBits b;
  b.max_kc = 512;
  b.step_k = 4;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = expand;
  b.run = run;
  return b;
}

}  // namespace ulp::mul8_scalar
