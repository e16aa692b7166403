// mmla and ulppack on ARM's 8-bit matrix multiply: 2 rows x 2 columns x 8 k an instruction, tiles 6 x 32 and 12 x 32.
//
//   A: bytes, read from their rows 16 k at a time; two rows make one operand, | row 0: k0 .. k7 | row 1: k0 .. k7 |.
//   Panel: two columns make the other,  | step 0: unit 0: columns 0 1, 2 3, 4 5, 6 7 | unit 1 .. | step 1: ...   in steps of 8 k.
//
// mmla: usmmla, codes of A as they are (u8) with code - 2^(b-1) (s8), every pair.
//   KernelAtBits: eight products go to s32, which wraps modulo 2^32, as the driver expects.
//   Ceiling: 24 sums, 48 usmmla, 22 loads and 6 zips for 16 k.
//
// ulppack: ummla, two *rows* in a byte, as rowpair_avx2.cpp does it for vpmaddubsw:
//
//     x = a[m][k] + 2^s a[m+1][k]        x w summed over k = (sum a[m][k] w) + 2^s (sum a[m+1][k] w)
//
//   so one ummla does 64 multiply-accumulates. Weights are not centred: fields must not go negative.
//   Bounds, m = (2^a - 1)(2^b - 1):
//     x fits a u8:       (2^a - 1)(2^s + 1) <= 255, s the largest that does: 7 for A1, 6 for A2
//     the lower field:   8 m L <= 2^s - 1           L steps between spills: W1A1 15, W2A1 5, W3A1 and W1A2 2
//   The upper field has the other bits of 32, far more than a K-block needs.
#include "multiply_neon.h"

namespace ulp {
namespace {

constexpr int kUnitPairs = kUnitCols / 2;
constexpr int kStepK = 8;

using Sums = uint32x4_t;  // row 0: columns 0, 1; row 1: columns 0, 1

// In assembly, and volatile, for the reason given in mul8_neon.cpp.
struct Usmmla {
  static ULP_INLINE void multiply_add(Sums& acc, uint8x16_t a, uint8x16_t b) {
    __asm__ volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
  }
};
struct Ummla {
  static ULP_INLINE void multiply_add(Sums& acc, uint8x16_t a, uint8x16_t b) {
    __asm__ volatile("ummla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(a), "w"(b));
  }
};

// code - centre in the order above.
template <int bits, int centre>
void expand_pairs(const BitpackedSlice& s, uint8_t* panel) {
  const uint8x16_t c = vdupq_n_u8(centre);
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; j += 2) {
        const Vec k0 = halves(v[j], [c](uint8x16_t x) { return vsubq_u8(x, c); });
        const Vec k4 = halves(v[j + 1], [c](uint8x16_t x) { return vsubq_u8(x, c); });
        const auto pairs = [](uint8x16_t x, uint8x16_t y) {
          const uint32x4_t first = vreinterpretq_u32_u8(x), second = vreinterpretq_u32_u8(y);
          return Vec{vreinterpretq_u8_u32(vzip1q_u32(first, second)), vreinterpretq_u8_u32(vzip2q_u32(first, second))};
        };
        uint8_t* to = panel + ((kb * 4 + j / 2) * s.units + u) * 2 * kVector;
        store(to, pairs(k0.lo, k4.lo));
        store(to + kVector, pairs(k0.hi, k4.hi));
      }
    }
  }
}

// acc += one step; x: a pair of rows each.
template <class M, int pairs, int units>
ULP_INLINE void step(const uint8x16_t (&x)[pairs], const uint8_t* b, Sums (&acc)[pairs][units][kUnitPairs]) {
  ULP_UNROLL for (int u = 0; u < units; ++u) {
    ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) {
      const uint8x16_t y = vld1q_u8(b + (u * kUnitPairs + j) * 16);
      ULP_UNROLL for (int p = 0; p < pairs; ++p) M::multiply_add(acc[p][u][j], x[p], y);
    }
  }
}

// acc += the steps of a piece; b moves on, by `stride` a step. `a`: the rows' starts, two a pair.
template <class M, int pairs, int units>
ULP_INLINE void multiply(const uint8_t* const (&a)[2 * pairs], const Piece& piece, const uint8_t*& b, int64_t stride,
                         Sums (&acc)[pairs][units][kUnitPairs]) {
  int64_t at = piece.a;
  int64_t left = piece.steps;
  uint8x16_t x[pairs];
  for (; left >= 2; left -= 2, at += 2 * kStepK, b += 2 * stride) {
    uint8x16_t second[pairs];
    ULP_UNROLL for (int p = 0; p < pairs; ++p) {
      const uint64x2_t row0 = vreinterpretq_u64_u8(vld1q_u8(a[2 * p] + at));
      const uint64x2_t row1 = vreinterpretq_u64_u8(vld1q_u8(a[2 * p + 1] + at));
      x[p] = vreinterpretq_u8_u64(vzip1q_u64(row0, row1));
      second[p] = vreinterpretq_u8_u64(vzip2q_u64(row0, row1));
    }
    step<M>(x, b, acc);
    step<M>(second, b + stride, acc);
  }
  if (left > 0) {
    ULP_UNROLL for (int p = 0; p < pairs; ++p) x[p] = vcombine_u8(vld1_u8(a[2 * p] + at), vld1_u8(a[2 * p + 1] + at));
    step<M>(x, b, acc);
    b += stride;
  }
}

template <int pairs, int units>
ULP_INLINE void clear(Sums (&acc)[pairs][units][kUnitPairs]) {
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) { ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) acc[p][u][j] = vdupq_n_u32(0); }
  }
}

// 8 columns of the row 0 or 1 of a pair.
template <int row>
ULP_INLINE Vec row_sums(const Sums (&acc)[kUnitPairs]) {
  const auto half = [&acc](int j) {
    const uint64x2_t x = vreinterpretq_u64_u32(acc[j]), y = vreinterpretq_u64_u32(acc[j + 1]);
    return vreinterpretq_u8_u64(row == 0 ? vzip1q_u64(x, y) : vzip2q_u64(x, y));
  };
  return {half(0), half(2)};
}

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

// ulppack

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

namespace mmla_i8mm {

bool supports(int, int) { return true; }

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

}  // namespace mmla_i8mm

namespace ulppack_i8mm {

bool supports(int a_bits, int b_bits) { return a_bits <= 2 && spill_every(a_bits, b_bits) >= 2; }

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

}  // namespace ulppack_i8mm

}  // namespace ulp
