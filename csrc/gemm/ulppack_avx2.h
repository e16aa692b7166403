// The lanes of ULPPACK on AVX2 for tile_ulppack.h: vpmullw and vpmulld.
#pragma once

#include "bitpacked_avx2.h"

namespace ulp {
namespace {

inline Vec zero() { return _mm256_setzero_si256(); }

inline __m256i swap_pairs(__m256i codes) { return _mm256_or_si256(_mm256_slli_epi16(codes, 8), _mm256_srli_epi16(codes, 8)); }

template <int d, bool swapped>
__m256i lanes(__m256i codes, int first) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  const __m256i x = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * first), byte);
  const __m256i y = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * first + 8), byte);
  return swapped ? _mm256_or_si256(y, _mm256_slli_epi32(x, d)) : _mm256_or_si256(x, _mm256_slli_epi32(y, d));
}

inline void store_in_turn(uint8_t* to, __m256i x, __m256i y) {
  const __m256i lo = _mm256_unpacklo_epi32(x, y);
  const __m256i hi = _mm256_unpackhi_epi32(x, y);
  store(to, _mm256_permute2x128_si256(lo, hi, 0x20));
  store(to + kVector, _mm256_permute2x128_si256(lo, hi, 0x31));
}

struct P1 {
  static constexpr int kStepK = 4;
  static constexpr int kUnrolled = 8;
  static __m256i multiply(__m256i a, __m256i b) { return _mm256_mullo_epi16(a, b); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
  static __m256i multiply_add(__m256i sum, __m256i a, __m256i b) { return add(sum, multiply(a, b)); }
  static __m256i extract(__m256i local) { return _mm256_srli_epi16(local, 8); }
  static __m256i columns(__m256i sums) {
    return _mm256_add_epi32(_mm256_and_si256(sums, _mm256_set1_epi32(0xFFFF)), _mm256_srli_epi32(sums, 16));
  }
};

template <int d>
struct P2 {
  static constexpr int kStepK = 2;
  static constexpr int kUnrolled = 1;
  static __m256i multiply(__m256i a, __m256i b) { return _mm256_mullo_epi32(a, b); }
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
  static __m256i multiply_add(__m256i sum, __m256i a, __m256i b) { return add(sum, multiply(a, b)); }
  static __m256i extract(__m256i local) { return _mm256_and_si256(_mm256_srli_epi32(local, d), _mm256_set1_epi32((1 << d) - 1)); }
  static __m256i columns(__m256i sums) { return sums; }
};

}  // namespace
}  // namespace ulp

#include "tile_ulppack.h"
