// rowpair on AVX2: two *outputs* in one operand of vpmaddubsw, tile 6 x 32.
//
// ULPPACK (Won et al., MLSys 2022) puts two k of one output in a 16-bit lane and keeps the middle of the product. vpmaddubsw already adds
// two k, so here a lane carries two rows of A instead, and nothing of the product is thrown away:
//
//     u8 operand  x = a[m][k] + 2^s a[m+1][k],   s8 operand  w = u_b (not centred: fields must not go negative)
//     x w summed over k = (sum a[m][k] w) + 2^s (sum a[m+1][k] w)
//
// so one vpmaddubsw does 64 multiply-accumulates. The loop is mul8's, with a row that stands for two.
//
// Bounds, m = (2^a - 1)(2^b - 1):
//   x fits a u8:            (2^a - 1)(2^s + 1) <= 255
//   the lower field:        2 m L <= 2^s - 1               L steps between spills
//   no saturation:          2 m L (2^s + 1) <= 32767       implied by the other two for s <= 7, asserted all the same
// s is the largest that x allows, which gives the largest L: W1A1 s = 7, L = 63; W1A2 s = 6, L = 10; W2A1 s = 7, L = 21; W2A2 s = 6, L = 3.
// Spilled sums are u16: a K-block of 512 adds at most 512 m <= 65535, m <= 127.
//
// Ceiling on Zen 3: twice mul8's before the spills, which take 3 operations, 2 loads and 2 stores an accumulator.
#include "multiply_avx2.h"

namespace ulp::rowpair_avx2 {
namespace {

constexpr int kMaxKc = 512;

constexpr int spill_every(int a_bits, int b_bits) { return field_steps(a_bits, b_bits, 2); }
static_assert(field_spacing(1) == 7 && field_spacing(2) == 6 && field_spacing(3) == 5 && field_spacing(4) == 4, "fields");
static_assert(spill_every(1, 1) == 63 && spill_every(2, 1) == 10 && spill_every(1, 2) == 21 && spill_every(2, 2) == 3, "fields");

constexpr bool fits(int a_bits, int b_bits) {
  const int m = max_product(a_bits, 0, b_bits, 0);
  return spill_every(a_bits, b_bits) > 0 && kMaxKc * m <= 65535 &&
         2 * m * spill_every(a_bits, b_bits) * ((1 << field_spacing(a_bits)) + 1) <= 32767;
}

// Rows 2 i and 2 i + 1 go to the place of row 2 i; the place of the other stays unused.
template <int a_bits>
void pack_pairs(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; r += 2, codes += 2 * stride, out += 2 * out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i upper = r + 1 < rows ? load(codes + stride + k) : _mm256_setzero_si256();
      store(out + k,
            _mm256_add_epi8(load(codes + k), _mm256_slli_epi16(upper, field_spacing(a_bits))));  // x < 256: no carry to the next byte
    }
  }
}

// u16 sums of a pair of rows: `all` is (sum of both fields as they lie) modulo 2^16, `upper` the upper field, lower = all - (upper << s).
struct Wide {
  __m256i all;
  __m256i upper;
};

template <int s, int pairs, int units>
void tile(const Tile& args) {
  const Tile t = own_copy(args);
  const uint8_t* a[pairs];
  ULP_UNROLL for (int p = 0; p < pairs; ++p) a[p] = t.a + 2 * p * t.a_stride;
  const uint8_t* b = t.b;
  Wide wide[pairs][units];
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) wide[p][u].all = wide[p][u].upper = _mm256_setzero_si256();
  }
  Piece piece{0, 0};
  for (int64_t left = ceil_div(t.k, 4); left > 0; left -= piece.steps, piece.a += 4 * piece.steps) {
    piece.steps = left < t.spill_every ? left : t.spill_every;
    __m256i acc[pairs][units];
    multiply<Mul8>(a, b, &piece, 1, acc);
    ULP_UNROLL for (int p = 0; p < pairs; ++p) {
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        wide[p][u].all = _mm256_add_epi16(wide[p][u].all, acc[p][u]);
        wide[p][u].upper = _mm256_add_epi16(wide[p][u].upper, _mm256_srli_epi16(acc[p][u], s));
      }
    }
  }
  // Two u16 of a column lie side by side: their sum is the column's.
  const auto columns = [](__m256i sums) {
    return _mm256_add_epi32(_mm256_and_si256(sums, _mm256_set1_epi32(0xFFFF)), _mm256_srli_epi32(sums, 16));
  };
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      const Wide& w = wide[p][u];
      store_result(t, 2 * p, u, row_term(t, 2 * p), columns(_mm256_sub_epi16(w.all, _mm256_slli_epi16(w.upper, s))));
      if (2 * p + 1 < t.rows) store_result(t, 2 * p + 1, u, row_term(t, 2 * p + 1), columns(w.upper));
    }
  }
}

template <int s, int pairs>
void tile_of_pairs(const Tile& t) {
  switch (t.units) {
    case 1:
      return tile<s, pairs, 1>(t);
    case 2:
      return tile<s, pairs, 2>(t);
    case 3:
      return tile<s, pairs, 3>(t);
    default:
      return tile<s, pairs, 4>(t);
  }
}

template <int s>
void run(const Tile& t) {
  switch ((t.rows + 1) / 2) {
    case 1:
      return tile_of_pairs<s, 1>(t);
    case 2:
      return tile_of_pairs<s, 2>(t);
    default:
      return tile_of_pairs<s, 3>(t);
  }
}

template <int a_bits>
void bind_a(KernelAtBits& b) {
  b.pack_a = pack_pairs<a_bits>;
  b.run = run<field_spacing(a_bits)>;
}

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return a_bits <= 3 && fits(a_bits, b_bits); });

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = spill_every(a_bits, b_bits);
  b.row_group = 2;
  b.max_kc = kMaxKc;
  b.panel_bytes = kUnitCodes;
  b.expand = expand_unsigned_codes(b_bits);
  switch (a_bits) {
    case 1:
      bind_a<1>(b);
      break;
    case 2:
      bind_a<2>(b);
      break;
    default:
      bind_a<3>(b);
      break;
  }
  return b;
}

}  // namespace ulp::rowpair_avx2
