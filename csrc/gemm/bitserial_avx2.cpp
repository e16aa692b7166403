// bitserial on AVX2: bit planes, AND and population count, tile 2 x 32, any bit pair.
//
//     sum_k u_a u_b = sum_{p, q} 2^(p + q) popcount(plane p of a AND plane q of b)        (Umuroglu and Jahre, "Streamlined deployment",
//     2017)
//
//   A: for each 32 k, the planes of a row, one 32-bit word each.
//   Panel: for each 32 k and unit, the planes of 8 columns, 32 bits a column:  | k-block 0: unit 0: plane 0, 1 .. | unit 1: ... | k-block
//   1: ... One vector is 8 columns x 32 k = 256 bit-products. The population count is two vpshufb into a table of nibbles.
//
// Bound. A byte of the count grows by at most 8 a step, so 31 K-blocks of 32 fit a u8: 248.
//
// Ceiling on Zen 3: 8 vector operations for 256 bit-products, some 100 a cycle, divided by a * b.
#include "dense_avx2.h"

namespace ulp::bitserial_avx2 {
namespace {

constexpr int kBlocksPerSpill = 31;
static_assert(kBlocksPerSpill * 8 <= 255, "u8 counts");

// Bit `plane` of each byte, gathered: bit i of the result is byte i's.
uint32_t plane_of(__m256i bytes, int plane) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_sll_epi16(bytes, _mm_cvtsi32_si128(7 - plane))));
}

template <int bits>
void pack_planes(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      for (int p = 0; p < bits; ++p) {
        const uint32_t plane = plane_of(load(codes + k), p);
        __builtin_memcpy(out + (k / kUnitK * bits + p) * 4, &plane, 4);
      }
    }
  }
}

template <int bits>
void expand(const DenseSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(dense_unit(s, kb, u), v);
      for (int q = 0; q < bits; ++q) {
        // Word j has a nibble (k = 4 j ..) of every column; a column wants its eight nibbles together.
        uint32_t columns[kUnitCols] = {};
        for (int j = 0; j < 8; ++j) {
          const uint32_t word = plane_of(v[j], q);
          for (int c = 0; c < kUnitCols; ++c) columns[c] |= (word >> (4 * c) & 15u) << (4 * j);
        }
        __builtin_memcpy(panel + ((kb * s.units + u) * bits + q) * kVector, columns, sizeof columns);
      }
    }
  }
}

ULP_INLINE __m256i count_bits(__m256i x) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, field<0>(x, 15)), _mm256_shuffle_epi8(counts, field<4>(x, 15)));
}

template <int a_bits, int b_bits, int rows>
void tile(const Tile& args) {
  const Tile t = args;  // a copy that no store to C can alias
  const int64_t blocks = ceil_div(t.k, kUnitK);
  const int64_t b_step = int64_t{t.units} * b_bits * kVector;
  for (int u = 0; u < t.units; ++u) {
    __m256i total[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) total[r] = _mm256_setzero_si256();
    for (int64_t done = 0; done < blocks; done += kBlocksPerSpill) {
      const int64_t count = blocks - done < kBlocksPerSpill ? blocks - done : kBlocksPerSpill;
      for (int p = 0; p < a_bits; ++p) {
        for (int q = 0; q < b_bits; ++q) {
          const uint8_t* b = t.b + done * b_step + (u * b_bits + q) * kVector;
          const uint8_t* a = t.a + (done * a_bits + p) * 4;
          __m256i acc[rows];
          ULP_UNROLL for (int r = 0; r < rows; ++r) acc[r] = _mm256_setzero_si256();
          for (int64_t i = 0; i < count; ++i, b += b_step, a += a_bits * 4) {
            const __m256i y = load(b);
            ULP_UNROLL for (int r = 0; r < rows; ++r) {
              int32_t plane;
              __builtin_memcpy(&plane, a + r * t.a_stride, 4);
              acc[r] = _mm256_add_epi8(acc[r], count_bits(_mm256_and_si256(y, _mm256_set1_epi32(plane))));
            }
          }
          const __m128i weight = _mm_cvtsi32_si128(p + q);
          ULP_UNROLL for (int r = 0; r < rows; ++r) {
            const __m256i pairs = _mm256_maddubs_epi16(acc[r], _mm256_set1_epi8(1));
            total[r] = _mm256_add_epi32(total[r], _mm256_sll_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), weight));
          }
        }
      }
    }
    ULP_UNROLL for (int r = 0; r < rows; ++r) store_result(t, r, u, row_term(t, r), total[r]);
  }
}

template <int a_bits, int b_bits>
void run(const Tile& t) {
  return t.rows == 1 ? tile<a_bits, b_bits, 1>(t) : tile<a_bits, b_bits, 2>(t);
}

}  // namespace

bool supports(int, int) { return true; }

Bound bind(int a_bits, int b_bits) {
  Bound b;
  b.flush = kBlocksPerSpill;
  b.a_bytes = 4 * a_bits;
  b.panel_bytes = kVector * b_bits;
  for_bits(a_bits, [&](auto a) {
    constexpr int kA = decltype(a)::value;
    b.pack_a = pack_planes<kA>;
    for_bits(b_bits, [&](auto w) {
      constexpr int kB = decltype(w)::value;
      b.expand = expand<kB>;
      b.run = run<kA, kB>;
      return 0;
    });
    return 0;
  });
  return b;
}

}  // namespace ulp::bitserial_avx2
