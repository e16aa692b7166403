// rowpair on ARM's 8-bit matrix multiply (matrix_i8mm.h): ummla on two rows of A per byte, tile 12 x 32, as rowpair_avx2.cpp does it:
//
//     x = a[m][k] + 2^s a[m+1][k]        x w summed over k = (sum a[m][k] w) + 2^s (sum a[m+1][k] w)
//
// so one ummla does 64 multiply-accumulates. Weights are not centred: fields must not go negative.
//   Bounds, m = (2^a - 1)(2^b - 1):
//     x fits a u8:       (2^a - 1)(2^s + 1) <= 255, s the largest that does: 7 for A1, 6 for A2
//     the lower field:   8 m L <= 2^s - 1           L steps between spills: W1A1 15, W2A1 5, W3A1 and W1A2 2
//   The upper field has the other bits of 32, far more than a K-block needs.
#include "matrix_i8mm.h"

namespace ulp::rowpair_i8mm {
namespace {

// In assembly, and volatile, for the reason given in mul8_neon.cpp.
struct Ummla {
  static ULP_INLINE void multiply_add(Sums& acc, uint8x16_t a, uint8x16_t b) {
    __asm__ volatile("ummla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
  }
};

constexpr int kMaxKc = 512;

constexpr int spill_every(int a_bits, int b_bits) { return field_steps(a_bits, b_bits, kStepK); }
static_assert(field_spacing(1) == 7 && field_spacing(2) == 6, "fields");
static_assert(spill_every(1, 1) == 15 && spill_every(1, 2) == 5 && spill_every(1, 3) == 2 && spill_every(2, 1) == 2, "fields");
static_assert(spill_every(1, 4) == 1 && spill_every(2, 2) == 0, "fields");

// Rows 2 i and 2 i + 1 go to the place of row 2 i; the place of the other stays unused.
template <int a_bits>
void pack_rows(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; r += 2, codes += 2 * stride, out += 2 * out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const Vec upper = r + 1 < rows ? load(codes + stride + k) : zero();
      store(out + k,
            halves(load(codes + k), upper, [](uint8x16_t x, uint8x16_t y) { return vaddq_u8(x, vshlq_n_u8(y, field_spacing(a_bits))); }));
    }
  }
}

// Sums of both fields as they lie, modulo 2^32, and of the upper field; lower = all - (upper << s).
struct Fields {
  Sums all = vdupq_n_u32(0);
  Sums upper = vdupq_n_u32(0);
};

// Row 2 * lane + field of a group of four rows.
template <int s, int lane>
ULP_INLINE void store_rows(const Tile& t, int row, int unit, const Fields (&fields)[kUnitPairs]) {
  Sums lower[kUnitPairs], upper[kUnitPairs];
  ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) {
    upper[j] = fields[j].upper;
    lower[j] = vsubq_u32(fields[j].all, vshlq_n_u32(upper[j], s));
  }
  if (row < t.rows) store_result(t, row, unit, row_term(t, row), row_sums<lane>(lower));
  if (row + 1 < t.rows) store_result(t, row + 1, unit, row_term(t, row + 1), row_sums<lane>(upper));
}

// Groups of four rows.
template <int s, int pairs, int units>
void packed_tile(const Tile& args, int unit) {
  const Tile t = args;  // a copy that no store to C can alias
  const uint8_t* a[2 * pairs];
  const int last = (t.rows - 1) / 2;
  ULP_UNROLL for (int r = 0; r < 2 * pairs; ++r) a[r] = t.a + 2 * (r < last ? r : last) * t.a_stride;
  const uint8_t* b = t.b + unit * 2 * kVector;
  const int64_t stride = int64_t{t.units} * 2 * kVector;
  Fields fields[pairs][units][kUnitPairs];
  Piece piece{0, 0};
  for (int64_t left = ceil_div(t.k, kStepK); left > 0; left -= piece.steps) {
    piece.steps = left < t.spill_every ? left : t.spill_every;
    Sums acc[pairs][units][kUnitPairs];
    clear(acc);
    multiply<Ummla>(a, piece, b, stride, acc);
    ULP_UNROLL for (int p = 0; p < pairs; ++p) {
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) {
          Fields& f = fields[p][u][j];
          f.all = vaddq_u32(f.all, acc[p][u][j]);
          f.upper = vsraq_n_u32(f.upper, acc[p][u][j], s);
        }
      }
    }
    piece.a += kStepK * piece.steps;
  }
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      store_rows<s, 0>(t, 4 * p, unit + u, fields[p][u]);
      store_rows<s, 1>(t, 4 * p + 2, unit + u, fields[p][u]);
    }
  }
}

template <int s, int pairs>
void packed_tile_of_pairs(const Tile& t) {
  int unit = 0;
  for (; unit + 2 <= t.units; unit += 2) packed_tile<s, pairs, 2>(t, unit);
  if (unit < t.units) packed_tile<s, pairs, 1>(t, unit);
}

template <int s>
void run_packed(const Tile& t) {
  switch (ceil_div(t.rows, 4)) {
    case 1:
      return packed_tile_of_pairs<s, 1>(t);
    case 2:
      return packed_tile_of_pairs<s, 2>(t);
    default:
      return packed_tile_of_pairs<s, 3>(t);
  }
}

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return a_bits <= 2 && spill_every(a_bits, b_bits) >= 2; });

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = spill_every(a_bits, b_bits);
  b.row_group = 2;
  b.max_kc = kMaxKc;
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand_pairs<decltype(bits)::value, 0>; });
  b.pack_a = a_bits == 1 ? pack_rows<1> : pack_rows<2>;
  b.run = a_bits == 1 ? run_packed<field_spacing(1)> : run_packed<field_spacing(2)>;
  return b;
}

}  // namespace ulp::rowpair_i8mm
