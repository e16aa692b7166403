// lutstream on AVX2: one row of A against 1-bit weights read straight from the bitpacked layout, by lookup, tile 1 x 32.
//
// A byte of the bitpacked data holds bits of one column for k = 4 j + i, j = 0 .. 7 (pack/layout.h). Each of its nibbles is the pattern of
// four weights, and a table of 16 entries holds what the four activations contribute. Activations are split into two halves of 4 bits so
// that entries stay below 61:
//
//   A: for each 32 k, half h and i:  16 bytes  sum_j bit_j(e) * (a & 15),  16 bytes  sum_j bit_j(e) * (a >> 4),   k = 16 h + 4 j + i
//   B: the four units of a panel are transposed so that a vector holds byte i of all 32 columns.
//
// KernelAtBits. Four entries of at most 4 * 15 = 60 fit a u8: 240. u8 sums go to u16 twice per 32 k, 480 at most, so 136 K-blocks of 32
// fit; 128 are run.
//
// Per 1024 multiply-accumulates: 12 shuffles to transpose, 12 operations to split nibbles, 32 to look up and add, 12 to spill.
#include "bitpacked_avx2.h"

namespace ulp::lutstream_avx2 {
namespace {

constexpr int kBlocksPerSpill = 128;
static_assert(kBlocksPerSpill * 8 * 4 * 15 <= 65535, "u16 sums");

void pack_tables(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  alignas(32) uint8_t mask[4][32];
  for (int j = 0; j < 4; ++j) {
    for (int e = 0; e < 32; ++e) mask[j][e] = e >> j & 1 ? 0xFF : 0;
  }
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    uint8_t* to = out;
    for (int64_t k = 0; k < k32; k += 16) {
      const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k));
      const __m128i low = _mm_and_si128(x, _mm_set1_epi8(15));
      const __m128i high = _mm_and_si128(_mm_srli_epi16(x, 4), _mm_set1_epi8(15));
      const __m256i halves = _mm256_set_m128i(high, low);
      for (int i = 0; i < 4; ++i, to += kVector) {
        __m256i sum = _mm256_setzero_si256();
        for (int j = 0; j < 4; ++j) {
          const __m256i a = _mm256_shuffle_epi8(halves, _mm256_set1_epi8(static_cast<char>(4 * j + i)));
          sum = _mm256_add_epi8(sum, _mm256_and_si256(a, load(mask[j])));
        }
        store(to, sum);
      }
    }
  }
}

// Unit vectors (column c, byte i at 4 c + i) -> byte i of all columns. In each 128-bit lane: columns 4 lane .. + 3 of units 0, 1, 2, 3.
ULP_INLINE void transpose(__m256i x[4]) {
  const __m256i by_i =
      _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  unrolled<4>([&](auto u) { x[u.value] = _mm256_shuffle_epi8(x[u.value], by_i); });
  const __m256i a = _mm256_unpacklo_epi32(x[0], x[1]);
  const __m256i b = _mm256_unpacklo_epi32(x[2], x[3]);
  const __m256i c = _mm256_unpackhi_epi32(x[0], x[1]);
  const __m256i d = _mm256_unpackhi_epi32(x[2], x[3]);
  x[0] = _mm256_unpacklo_epi64(a, b);
  x[1] = _mm256_unpackhi_epi64(a, b);
  x[2] = _mm256_unpacklo_epi64(c, d);
  x[3] = _mm256_unpackhi_epi64(c, d);
}

ULP_INLINE __m256i look_up(const uint8_t* table, __m256i index) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), index);
}

// u16 sums of 32 columns: see Wide in lut_avx2.cpp.
struct Wide {
  __m256i all;
  __m256i odd;
  ULP_INLINE void add(__m256i bytes) {
    all = _mm256_add_epi16(all, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
};

// total[unit] += weight * sums, which start again from zero.
ULP_INLINE void spill(int32_t (&total)[kPanelUnits][kUnitCols], Wide& w, int log2_weight) {
  const __m256i even = _mm256_sub_epi16(w.all, _mm256_slli_epi16(w.odd, 8));
  const __m256i lo = _mm256_permute4x64_epi64(_mm256_unpacklo_epi16(even, w.odd), 0xD8);  // unit 0, unit 1
  const __m256i hi = _mm256_permute4x64_epi64(_mm256_unpackhi_epi16(even, w.odd), 0xD8);  // unit 2, unit 3
  const __m128i eight[kPanelUnits] = {_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1), _mm256_castsi256_si128(hi),
                                      _mm256_extracti128_si256(hi, 1)};
  unrolled<kPanelUnits>([&](auto u) {
    __m256i* sum = reinterpret_cast<__m256i*>(total[u.value]);
    const __m256i part = _mm256_sll_epi32(_mm256_cvtepu16_epi32(eight[u.value]), _mm_cvtsi32_si128(log2_weight));
    _mm256_store_si256(sum, _mm256_add_epi32(_mm256_load_si256(sum), part));
  });
  w.all = w.odd = _mm256_setzero_si256();
}

template <bool two_halves, int units>
void tile(const Tile& t) {
  const __m256i low = _mm256_set1_epi8(15);
  alignas(32) int32_t total[kPanelUnits][kUnitCols] = {};
  Wide wide[2];
  unrolled<2>([&](auto p) { wide[p.value].all = wide[p.value].odd = _mm256_setzero_si256(); });
  const uint8_t* bitpacked = t.b;
  const uint8_t* tables = t.a;
  const int64_t blocks = ceil_div(t.k, kUnitK);
  for (int64_t done = 0; done < blocks;) {
    const int64_t end = blocks - done < kBlocksPerSpill ? blocks : done + kBlocksPerSpill;
    for (; done < end; ++done, bitpacked += units * kVector, tables += 8 * kVector) {
      __m256i x[4];
      unrolled<4>([&](auto u) { x[u.value] = u.value < units ? load(bitpacked + u.value * kVector) : _mm256_setzero_si256(); });
      transpose(x);
      unrolled<2>([&](auto h) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        unrolled<4>([&](auto i) {
          const __m256i index = _mm256_and_si256(h.value ? _mm256_srli_epi16(x[i.value], 4) : x[i.value], low);
          const uint8_t* table = tables + (4 * h.value + i.value) * kVector;
          sum[0] = _mm256_add_epi8(sum[0], look_up(table, index));
          if constexpr (two_halves) sum[1] = _mm256_add_epi8(sum[1], look_up(table + 16, index));
        });
        wide[0].add(sum[0]);
        if constexpr (two_halves) wide[1].add(sum[1]);
      });
    }
    spill(total, wide[0], 0);
    if constexpr (two_halves) spill(total, wide[1], 4);
  }
  for (int u = 0; u < units; ++u) store_result(t, 0, u, row_term(t, 0), _mm256_load_si256(reinterpret_cast<const __m256i*>(total[u])));
}

template <bool two_halves>
void run(const Tile& t) {
  switch (t.units) {
    case 1:
      return tile<two_halves, 1>(t);
    case 2:
      return tile<two_halves, 2>(t);
    case 3:
      return tile<two_halves, 3>(t);
    default:
      return tile<two_halves, 4>(t);
  }
}

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int, int b_bits) { return b_bits == 1; });

KernelAtBits bind(int a_bits, int) {
  KernelAtBits b;
  b.a_bytes = 8 * kVector;
  b.pack_a = pack_tables;
  b.run = a_bits > 4 ? run<true> : run<false>;
  return b;
}

}  // namespace ulp::lutstream_avx2
