// Targets of Ops::finish that have thresholds, on AVX-512, as thresholds_avx2.cpp does it: 32 columns at a time, which are one vector where
// all thresholds are in -32767 .. 32767 and two else. Sums lie in a vector as packs_epi32 leaves them, and so do the thresholds; codes are
// put in order at the end.
//
// Ceiling on Sapphire Rapids: a comparison into a mask and an addition under it per threshold, the comparison once per cycle: 32 columns
// per cycle and threshold.
#include "ops_avx512.h"

namespace ulp::ops_avx512 {
namespace {

constexpr int kColumns = 32;
constexpr int kMaxCode = 255;

struct Columns {
  const int32_t* acc;
  int64_t ld;
  int64_t pixels;
  __mmask16 lanes[2];  // of the columns that there are
  Vec flip[2];
  int max_code;
  uint8_t* codes;
  int64_t pixel;
};

ULP_INLINE Vec entry(const uint8_t* table, int i) { return _mm512_load_si512(table + i * kVecBytes); }

// table: two vectors for each threshold. True if all thresholds are in the range of the narrow comparison.
bool transpose_thresholds(const int32_t* thresholds, const __mmask16 (&lanes)[2], int max_code, uint8_t* table) {
  const Vec columns = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Vec offsets = _mm512_mullo_epi32(columns, same_ints(max_code));
  Vec largest = zero();  // |t|, unsigned
  for (int k = 0; k < max_code; ++k) {
    ULP_UNROLL for (int half = 0; half < 2; ++half) {
      const Vec t = _mm512_mask_i32gather_epi32(zero(), lanes[half], offsets, thresholds + half * kFloats * max_code + k, 4);
      largest = _mm512_max_epu32(largest, _mm512_abs_epi32(t));
      _mm512_store_si512(table + (2 * k + half) * kVecBytes, t);
    }
  }
  return _mm512_test_epi32_mask(largest, same_ints(~0x7FFF)) == 0;
}

ULP_INLINE void load_columns(const Columns& c, int64_t p, Vec x[2]) {
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    x[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi32(c.lanes[i], c.acc + p * c.ld + kFloats * i), c.flip[i]);
  }
}

// counts: words in the order of packs_epi32.
ULP_INLINE void store_counts(const Columns& c, int64_t p, Vec counts) {
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  const __m256i codes = _mm256_permutevar8x32_epi32(_mm512_cvtepi16_epi8(counts), order);
  const auto lanes = static_cast<__mmask32>(c.lanes[0] | static_cast<uint32_t>(c.lanes[1]) << 16);
  _mm256_mask_storeu_epi8(c.codes + p * c.pixel, lanes, codes);
}

// Thresholds are read from the table once for this many pixels.
constexpr int kPixels = 4;

// known: the number of thresholds, kept in registers; 0: any number.
template <int known, int pixels>
ULP_INLINE void count_narrow(const Columns& c, int64_t p, const uint8_t* table, const Vec* below) {
  const Vec one = same_words(1);
  Vec sums[pixels];
  Vec counts[pixels];
  ULP_UNROLL for (int i = 0; i < pixels; ++i) {
    Vec x[2];
    load_columns(c, p + i, x);
    sums[i] = packed_words(x[0], x[1]);
    counts[i] = zero();
  }
  const auto add = [&](Vec t) {
    ULP_UNROLL for (int i = 0; i < pixels; ++i) {
      counts[i] = _mm512_mask_add_epi16(counts[i], _mm512_cmpgt_epi16_mask(sums[i], t), counts[i], one);
    }
  };
  if constexpr (known > 0) {
    ULP_UNROLL for (int k = 0; k < known; ++k) add(below[k]);
  } else {
    for (int k = 0; k < c.max_code; ++k) add(entry(table, k));
  }
  ULP_UNROLL for (int i = 0; i < pixels; ++i) store_counts(c, p + i, counts[i]);
}

template <int known>
void count_narrow(const Columns& c, uint8_t* table) {
  // x reaches t where x > t - 1; the smallest t - 1 is -32768.
  for (int k = 0; k < c.max_code; ++k) {
    const Vec t = packed_words(entry(table, 2 * k), entry(table, 2 * k + 1));
    _mm512_store_si512(table + k * kVecBytes, _mm512_sub_epi16(t, same_words(1)));
  }
  Vec below[known ? known : 1];
  ULP_UNROLL for (int k = 0; k < known; ++k) below[k] = entry(table, k);
  int64_t p = 0;
  for (; p + kPixels <= c.pixels; p += kPixels) count_narrow<known, kPixels>(c, p, table, below);
  for (; p < c.pixels; ++p) count_narrow<known, 1>(c, p, table, below);
}

template <int pixels>
ULP_INLINE void count_wide(const Columns& c, int64_t p, const uint8_t* table) {
  const Vec one = same_ints(1);
  Vec sums[pixels][2];
  Vec counts[pixels][2];
  ULP_UNROLL for (int i = 0; i < pixels; ++i) {
    load_columns(c, p + i, sums[i]);
    counts[i][0] = counts[i][1] = zero();
  }
  for (int k = 0; k < c.max_code; ++k) {
    ULP_UNROLL for (int j = 0; j < 2; ++j) {
      const Vec t = entry(table, 2 * k + j);
      ULP_UNROLL for (int i = 0; i < pixels; ++i) {
        counts[i][j] = _mm512_mask_add_epi32(counts[i][j], _mm512_cmpge_epi32_mask(sums[i][j], t), counts[i][j], one);
      }
    }
  }
  ULP_UNROLL for (int i = 0; i < pixels; ++i) store_counts(c, p + i, packed_words(counts[i][0], counts[i][1]));
}

void count_wide(const Columns& c, const uint8_t* table) {
  int64_t p = 0;
  for (; p + kPixels <= c.pixels; p += kPixels) count_wide<kPixels>(c, p, table);
  for (; p < c.pixels; ++p) count_wide<1>(c, p, table);
}

void count(const Columns& c, uint8_t* table, bool narrow) {
  if (!narrow) return count_wide(c, table);
  switch (c.max_code) {
    case 1:
      return count_narrow<1>(c, table);
    case 3:
      return count_narrow<3>(c, table);
    case 7:
      return count_narrow<7>(c, table);
    case 15:
      return count_narrow<15>(c, table);
    default:
      return count_narrow<0>(c, table);
  }
}

}  // namespace

void finish_thresholds(const Finish& f, const Target& t) {
  alignas(64) uint8_t table[kMaxCode * 2 * kVecBytes];
  for (int64_t column = 0; column < f.channels; column += kColumns) {
    const uint64_t there = first_bytes(f.channels - column < kColumns ? f.channels - column : kColumns);
    const __mmask16 lanes[2] = {static_cast<__mmask16>(there), static_cast<__mmask16>(there >> 16)};
    const bool narrow = transpose_thresholds(t.thresholds + column * t.max_code, lanes, t.max_code, table);
    const int32_t* flip = t.flip + column;
    const Columns c{f.acc + column,
                    f.ld,
                    f.pixels,
                    {lanes[0], lanes[1]},
                    {_mm512_maskz_loadu_epi32(lanes[0], flip), _mm512_maskz_loadu_epi32(lanes[1], flip + kFloats)},
                    t.max_code,
                    t.codes + column,
                    t.pixel};
    count(c, table, narrow);
  }
}

}  // namespace ulp::ops_avx512
