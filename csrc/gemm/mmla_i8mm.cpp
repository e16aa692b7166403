// mmla on ARM's 8-bit matrix multiply (matrix_i8mm.h): usmmla, codes of A as they are (u8) with code - 2^(b-1) (s8), tile 6 x 32, every
// pair.
//
//   KernelAtBits: eight products go to s32, which wraps modulo 2^32, as the driver expects.
//   Ceiling: 24 sums, 48 usmmla, 22 loads and 6 zips for 16 k.
#include "matrix_i8mm.h"

namespace ulp::mmla_i8mm {
namespace {

// In assembly, and volatile, for the reason given in mul8_neon.cpp.
struct Usmmla {
  static ULP_INLINE void multiply_add(Sums& acc, uint8x16_t a, uint8x16_t b) {
    __asm__ volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
  }
};

// Rows `first` .. of a Gather, or of a tile (then first is 0).
template <int pairs, int units>
void tile(const Tile& args, int first, int rows, int unit) {
  Tile t = args;  // a copy that no store to C can alias
  t.c += first * t.ldc;
  if (t.row) t.row += first;
  const uint8_t* a[2 * pairs];
  ULP_UNROLL for (int r = 0; r < 2 * pairs; ++r) {
    const int row = r < rows ? r : rows - 1;  // the last pair may have one row only
    a[r] = t.gather ? t.gather->rows[first + row] : t.a + row * t.a_stride;
  }
  const uint8_t* b = t.b + unit * 2 * kVector;
  const int64_t stride = int64_t{t.units} * 2 * kVector;
  Sums acc[pairs][units][kUnitPairs];
  clear(acc);
  if (t.gather) {
    for (const Run* run = t.gather->runs; run != t.gather->runs + t.gather->run_count; ++run) {
      for (int64_t i = 0; i < run->count; ++i) multiply<Usmmla>(a, run->pieces[i], b, stride, acc);
    }
  } else {
    multiply<Usmmla>(a, {0, ceil_div(t.k, kStepK)}, b, stride, acc);
  }
  Vec term[2 * pairs];
  ULP_UNROLL for (int r = 0; r < 2 * pairs; ++r) term[r] = row_term(t, r < rows ? r : 0);
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      store_result(t, 2 * p, unit + u, term[2 * p], row_sums<0>(acc[p][u]));
      if (2 * p + 1 < rows) store_result(t, 2 * p + 1, unit + u, term[2 * p + 1], row_sums<1>(acc[p][u]));
    }
  }
}

template <int pairs>
void tile_of_pairs(const Tile& t, int first, int rows) {
  int unit = 0;
  for (; unit + 2 <= t.units; unit += 2) tile<pairs, 2>(t, first, rows, unit);
  if (unit < t.units) tile<pairs, 1>(t, first, rows, unit);
}

void run_mmla(const Tile& t) {
  for (int first = 0, rows; first < t.rows; first += rows) {
    const int left = t.rows - first;
    rows = left > 8 || left == 6 || left == 5 ? (left < 6 ? left : 6) : (left < 4 ? left : 4);  // four and four rather than six and two
    rows > 4 ? tile_of_pairs<3>(t, first, rows) : rows > 2 ? tile_of_pairs<2>(t, first, rows) : tile_of_pairs<1>(t, first, rows);
  }
}

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) {
  KernelAtBits b;
  b.centre_b = centre_of(b_bits);
  b.max_kc = 512;
  b.step_k = kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand_pairs<decltype(bits)::value, centre_of(decltype(bits)::value)>; });
  b.run = run_mmla;
  return b;
}

}  // namespace ulp::mmla_i8mm
