// P1 and P2 of ULPPACK (Won et al., MLSys 2022, sections 3 and 4) on AVX2, tile 3 x 32: the method this library started from, for
// comparison.
//
// Two k of one output share a lane, swapped in one operand, and the middle of the product is their dot product. One multiply of two lanes:
//
//     (a0 + 2^d a1) (w1 + 2^d w0) = a0 w1  +  2^d (a0 w0 + a1 w1)  +  2^2d a1 w0
//
// P1: 16-bit lanes, d = 8, vpmullw: the last term falls off the top, the upper byte is the dot product. Two bytes of A side by side already
// are
//     its lane, so only the weights are swapped.
//     Bound: L (2 m) <= 255, so L = floor(255 / (2 m)), m = (2^a - 1)(2^w - 1); the lower byte then holds L m without a carry.
// P2: 32-bit lanes, d = 16 - max(a, w), vpmulld: the dot product is the middle d bits.
//     Bound: L (2 m) <= 2^d - 1, so L = floor((2^d - 1) / (2 m)).
//
// L is rounded down to 8, 4, 2 or 1, as published, so that the loop between two extractions unrolls. P1's extracted sums are u16: a K-block
// of 512 adds at most 512 * 127 = 65024. P2's are u32, modulo 2^32.
#include "dense_avx2.h"

namespace ulp {
namespace {

constexpr int kRows = 3;
constexpr int kMaxKc = 512;
static_assert(kMaxKc * 127 <= 65535, "P1's u16 sums");

constexpr int rounded(int length) { return length >= 8 ? 8 : length >= 4 ? 4 : length >= 2 ? 2 : length; }
constexpr int spacing2(int a_bits, int b_bits) { return 16 - (a_bits > b_bits ? a_bits : b_bits); }
constexpr int length1(int a_bits, int b_bits) { return rounded(accumulation_length(255, 2, max_product(a_bits, 0, b_bits, 0))); }
constexpr int length2(int a_bits, int b_bits) {
  return rounded(accumulation_length((1 << spacing2(a_bits, b_bits)) - 1, 2, max_product(a_bits, 0, b_bits, 0)));
}
static_assert(length1(1, 1) == 8 && length1(2, 2) == 8 && length1(3, 3) == 2 && length1(4, 4) == 0, "MLSys 2022, figure 5");
static_assert(length2(4, 4) == 8 && length2(5, 5) == 1 && length2(7, 1) == 2 && length2(6, 6) == 0, "MLSys 2022, figure 5");

// P1 lanes: bytes of a pair of k swapped.
template <int bits>
void expand1(const DenseSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(dense_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        store(panel + ((kb * s.units + u) * 8 + j) * kVector, _mm256_or_si256(_mm256_slli_epi16(v[j], 8), _mm256_srli_epi16(v[j], 8)));
      }
    }
  }
}

// P2 lanes: of four codes in 32 bits, the first (or last) two as low + 2^d high, swapped for the weights.
template <int d, bool swapped>
__m256i lanes(__m256i codes, int first) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  const __m256i x = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * first), byte);
  const __m256i y = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * first + 8), byte);
  return swapped ? _mm256_or_si256(y, _mm256_slli_epi32(x, d)) : _mm256_or_si256(x, _mm256_slli_epi32(y, d));
}

template <int bits, int d>
void expand2(const DenseSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(dense_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        uint8_t* to = panel + ((kb * s.units + u) * 16 + 2 * j) * kVector;
        store(to, lanes<d, true>(v[j], 0));
        store(to + kVector, lanes<d, true>(v[j], 2));
      }
    }
  }
}

template <int d>
void pack2(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = load(codes + k);
      const __m256i first = lanes<d, false>(x, 0);
      const __m256i second = lanes<d, false>(x, 2);
      const __m256i lo = _mm256_unpacklo_epi32(first, second);
      const __m256i hi = _mm256_unpackhi_epi32(first, second);
      store(out + 4 * (k / 2), _mm256_permute2x128_si256(lo, hi, 0x20));
      store(out + 4 * (k / 2) + kVector, _mm256_permute2x128_si256(lo, hi, 0x31));
    }
  }
}

// A vector of lanes takes four bytes of A: two lanes of P1, one of P2.
struct P1 {
  static constexpr int kStepK = 4;
  static __m256i multiply(__m256i a, __m256i b) { return _mm256_mullo_epi16(a, b); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
  static __m256i extract(__m256i local) { return _mm256_srli_epi16(local, 8); }
  static __m256i columns(__m256i sums) {
    return _mm256_add_epi32(_mm256_and_si256(sums, _mm256_set1_epi32(0xFFFF)), _mm256_srli_epi32(sums, 16));
  }
};

template <int d>
struct P2 {
  static constexpr int kStepK = 2;
  static __m256i multiply(__m256i a, __m256i b) { return _mm256_mullo_epi32(a, b); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
  static __m256i extract(__m256i local) { return _mm256_and_si256(_mm256_srli_epi32(local, d), _mm256_set1_epi32((1 << d) - 1)); }
  static __m256i columns(__m256i sums) { return sums; }
};

// Two units at a time: 6 local accumulators and 6 extracted sums.
template <class P, int length, int rows, int units>
void tile(const Tile& t, int first_unit) {
  const uint8_t* a = t.a;
  constexpr int kUnitSteps = kUnitK / P::kStepK;
  __m256i sum[rows][units];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) sum[r][u] = _mm256_setzero_si256(); }
  for (int64_t kb = 0; kb < ceil_div(t.k, kUnitK); ++kb) {
    const uint8_t* b = t.b + (kb * t.units + first_unit) * kUnitSteps * kVector;
    for (int step = 0; step < kUnitSteps; step += length) {
      __m256i local[rows][units];
      ULP_UNROLL for (int i = 0; i < length; ++i) {
        ULP_UNROLL for (int r = 0; r < rows; ++r) {
          const __m256i x = broadcast4(a + r * t.a_stride + 4 * i);
          ULP_UNROLL for (int u = 0; u < units; ++u) {
            const __m256i product = P::multiply(x, load(b + (u * kUnitSteps + i) * kVector));
            local[r][u] = i == 0 ? product : P::add(local[r][u], product);
          }
        }
      }
      a += 4 * length;
      b += length * kVector;
      ULP_UNROLL for (int r = 0; r < rows; ++r) {
        ULP_UNROLL for (int u = 0; u < units; ++u) sum[r][u] = P::add(sum[r][u], P::extract(local[r][u]));
      }
    }
  }
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first_unit + u, row_term(t, r), P::columns(sum[r][u]));
  }
}

template <class P, int length, int rows>
void tile_of_rows(const Tile& t) {
  int u = 0;
  for (; u + 2 <= t.units; u += 2) tile<P, length, rows, 2>(t, u);
  if (u < t.units) tile<P, length, rows, 1>(t, u);
}

template <class P, int length>
void run(const Tile& t) {
  switch (t.rows) {
    case 1:
      return tile_of_rows<P, length, 1>(t);
    case 2:
      return tile_of_rows<P, length, 2>(t);
    default:
      return tile_of_rows<P, length, kRows>(t);
  }
}

template <class P>
void (*run_of_length(int length))(const Tile&) {
  switch (length) {
    case 8:
      return run<P, 8>;
    case 4:
      return run<P, 4>;
    case 2:
      return run<P, 2>;
    default:
      return run<P, 1>;
  }
}

}  // namespace

namespace ulppack_p1_avx2 {

bool supports(int a_bits, int b_bits) { return length1(a_bits, b_bits) > 0; }

Bound bind(int a_bits, int b_bits) {
  Bound b;
  b.flush = length1(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand1<decltype(bits)::value>; });
  b.run = run_of_length<P1>(b.flush);
  return b;
}

}  // namespace ulppack_p1_avx2

namespace ulppack_p2_avx2 {

bool supports(int a_bits, int b_bits) { return a_bits < 8 && b_bits < 8 && length2(a_bits, b_bits) > 0; }

Bound bind(int a_bits, int b_bits) {
  Bound b;
  b.flush = length2(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.a_bytes = 2 * kUnitK;
  b.panel_bytes = 2 * kUnitCodes;
  for_bits(spacing2(a_bits, b_bits) - 8, [&](auto over) {
    constexpr int d = 8 + decltype(over)::value;
    b.pack_a = pack2<d>;
    b.run = run_of_length<P2<d>>(b.flush);
    b.expand = for_bits(b_bits, [](auto bits) { return &expand2<decltype(bits)::value, d>; });
    return 0;
  });
  return b;
}

}  // namespace ulppack_p2_avx2

}  // namespace ulp
