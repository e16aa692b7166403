// Targets of Ops::finish that have thresholds, on AVX2: a code is how many thresholds a sum reaches, counted by comparisons.
//
// 16 columns are taken at a time. Their thresholds are transposed, so that a vector holds threshold k of them all, and stay in registers or
// in the first-level cache over all pixels. Where every threshold t of the 16 is in -32767 .. 32767, sums saturated to 16 bits compare as
// the sums themselves do (a sum of 32767 or more reaches each t <= 32767, one of -32768 or less none t >= -32767), and 16 columns are one
// vector; else they are two of 32 bits.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

constexpr int kColumns = 16;
constexpr int kMaxCode = 255;

struct Columns {
  const int32_t* acc;
  int64_t ld;
  int64_t pixels;
  int64_t n;  // 1 .. 16
  __m256i flip[2];
  int max_code;
  uint8_t* codes;
  int64_t pixel;
};

inline __m256i* at(uint8_t* table, int i) { return reinterpret_cast<__m256i*>(table + i * kVector); }
inline const __m256i* at(const uint8_t* table, int i) { return reinterpret_cast<const __m256i*>(table + i * kVector); }

// table: two vectors for each threshold. True if all thresholds are in the range of the narrow comparison.
bool transpose_thresholds(const int32_t* thresholds, int64_t n, int max_code, uint8_t* table) {
  __m256i largest = _mm256_setzero_si256();  // |t|, unsigned
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < max_code; k += 8) {
      const int count = max_code - k < 8 ? max_code - k : 8;
      const __m256i lanes = first_lanes(count);
      __m256 r[8];
      for (int c = 0; c < 8; ++c) {
        const int64_t column = half * 8 + c;
        const int32_t* row = thresholds + column * max_code + k;
        r[c] = column < n ? _mm256_castsi256_ps(_mm256_maskload_epi32(row, lanes)) : _mm256_setzero_ps();
      }
      transpose(r);
      for (int i = 0; i < count; ++i) {
        const __m256i t = _mm256_castps_si256(r[i]);
        largest = _mm256_max_epu32(largest, _mm256_abs_epi32(t));
        _mm256_store_si256(at(table, 2 * (k + i) + half), t);
      }
    }
  }
  return _mm256_testz_si256(largest, _mm256_set1_epi32(~0x7FFF));
}

template <bool part>
ULP_INLINE void load_sums(const Columns& c, const int32_t* acc, const __m256i lanes[2], __m256i x[2]) {
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    const int32_t* from = acc + 8 * i;
    x[i] = part ? _mm256_maskload_epi32(from, lanes[i]) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    x[i] = _mm256_xor_si256(x[i], c.flip[i]);
  }
}

template <bool part>
ULP_INLINE void store_codes(uint8_t* codes, __m256i counts, int64_t n) {
  const __m256i bytes = _mm256_packus_epi16(counts, counts);  // columns 0-3, 8-11, ... | 4-7, 12-15, ...
  const __m128i ordered = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5)));
  if constexpr (part) {
    store_low(codes, ordered, n);
  } else {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), ordered);
  }
}

// Thresholds are read from the table once for this many pixels.
constexpr int kPixels = 4;

// known: the number of thresholds, kept in registers; 0: any number.
template <bool part, int known, int pixels>
ULP_INLINE void count_narrow(const Columns& c, int64_t p, const __m256i lanes[2], const uint8_t* table, const __m256i* below) {
  const int max_code = c.max_code;
  __m256i sums[pixels];
  __m256i counts[pixels];
  ULP_UNROLL for (int i = 0; i < pixels; ++i) {
    __m256i x[2];
    load_sums<part>(c, c.acc + (p + i) * c.ld, lanes, x);
    sums[i] = _mm256_packs_epi32(x[0], x[1]);
    counts[i] = _mm256_setzero_si256();
  }
  if constexpr (known > 0) {
    ULP_UNROLL for (int k = 0; k < known; ++k) {
      ULP_UNROLL for (int i = 0; i < pixels; ++i) counts[i] = _mm256_sub_epi16(counts[i], _mm256_cmpgt_epi16(sums[i], below[k]));
    }
  } else {
    for (int k = 0; k < max_code; ++k) {
      const __m256i t = *at(table, k);
      ULP_UNROLL for (int i = 0; i < pixels; ++i) counts[i] = _mm256_sub_epi16(counts[i], _mm256_cmpgt_epi16(sums[i], t));
    }
  }
  ULP_UNROLL for (int i = 0; i < pixels; ++i) store_codes<part>(c.codes + (p + i) * c.pixel, counts[i], c.n);
}

template <bool part, int known>
void count_narrow(const Columns& c, uint8_t* table) {
  // x reaches t where x > t - 1; the smallest t - 1 is -32768.
  for (int k = 0; k < c.max_code; ++k) {
    const __m256i t = _mm256_packs_epi32(*at(table, 2 * k), *at(table, 2 * k + 1));
    _mm256_store_si256(at(table, k), _mm256_sub_epi16(t, _mm256_set1_epi16(1)));
  }
  const __m256i lanes[2] = {first_lanes(c.n < 8 ? c.n : 8), first_lanes(c.n < 8 ? 0 : c.n - 8)};
  __m256i below[known ? known : 1];
  ULP_UNROLL for (int k = 0; k < known; ++k) below[k] = *at(table, k);
  int64_t p = 0;
  if constexpr (known == 0) {
    for (; p + kPixels <= c.pixels; p += kPixels) count_narrow<part, known, kPixels>(c, p, lanes, table, below);
  }
  for (; p < c.pixels; ++p) count_narrow<part, known, 1>(c, p, lanes, table, below);
}

template <bool part, int pixels>
ULP_INLINE void count_wide(const Columns& c, int64_t p, const __m256i lanes[2], const uint8_t* table) {
  const int max_code = c.max_code;
  __m256i sums[pixels][2];
  __m256i counts[pixels][2];
  ULP_UNROLL for (int i = 0; i < pixels; ++i) {
    load_sums<part>(c, c.acc + (p + i) * c.ld, lanes, sums[i]);
    counts[i][0] = counts[i][1] = _mm256_set1_epi32(max_code);
  }
  for (int k = 0; k < max_code; ++k) {
    ULP_UNROLL for (int j = 0; j < 2; ++j) {
      const __m256i t = *at(table, 2 * k + j);
      ULP_UNROLL for (int i = 0; i < pixels; ++i) counts[i][j] = _mm256_add_epi32(counts[i][j], _mm256_cmpgt_epi32(t, sums[i][j]));
    }
  }
  ULP_UNROLL for (int i = 0; i < pixels; ++i) {
    store_codes<part>(c.codes + (p + i) * c.pixel, _mm256_packs_epi32(counts[i][0], counts[i][1]), c.n);
  }
}

template <bool part>
void count_wide(const Columns& c, uint8_t* table) {
  constexpr int kTogether = 2;
  const __m256i lanes[2] = {first_lanes(c.n < 8 ? c.n : 8), first_lanes(c.n < 8 ? 0 : c.n - 8)};
  int64_t p = 0;
  for (; p + kTogether <= c.pixels; p += kTogether) count_wide<part, kTogether>(c, p, lanes, table);
  for (; p < c.pixels; ++p) count_wide<part, 1>(c, p, lanes, table);
}

template <bool part>
void count(const Columns& c, uint8_t* table, bool narrow) {
  if (!narrow) return count_wide<part>(c, table);
  switch (c.max_code) {
    case 1:
      return count_narrow<part, 1>(c, table);
    case 3:
      return count_narrow<part, 3>(c, table);
    case 7:
      return count_narrow<part, 7>(c, table);
    default:
      return count_narrow<part, 0>(c, table);
  }
}

}  // namespace

void finish_thresholds(const Finish& f, const Target& t) {
  alignas(64) uint8_t table[kMaxCode * 2 * kVector];
  for (int64_t column = 0; column < f.channels; column += kColumns) {
    const int64_t n = f.channels - column < kColumns ? f.channels - column : kColumns;
    const bool narrow = transpose_thresholds(t.thresholds + column * t.max_code, n, t.max_code, table);
    const int32_t* flip = t.flip + column;
    const Columns c{
        f.acc + column,
        f.ld,
        f.pixels,
        n,
        {_mm256_maskload_epi32(flip, first_lanes(n < 8 ? n : 8)), _mm256_maskload_epi32(flip + 8, first_lanes(n < 8 ? 0 : n - 8))},
        t.max_code,
        t.codes + column,
        t.pixel};
    n == kColumns ? count<false>(c, table, narrow) : count<true>(c, table, narrow);
  }
}

}  // namespace ulp::ops_avx2
