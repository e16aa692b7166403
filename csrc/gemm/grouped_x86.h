// grouped on AVX2, with vpmaddubsw or vpdpbusd: what both share. For kernel files built with -mavx2 only.
//
//   B: codes as u8, or a table's bytes + 128.   A: s8, four k by one vpbroadcastd.
#pragma once

#include "bitpacked_avx2.h"
#include "grouped_kernel.h"

namespace ulp {
namespace {

using Table = __m256i;
ULP_INLINE Table table_of(const int8_t* bytes) {
  const __m128i raised = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)), _mm_set1_epi8(static_cast<char>(0x80)));
  return _mm256_broadcastsi128_si256(raised);
}
ULP_INLINE Vec look_up(Table table, Vec codes) { return _mm256_shuffle_epi8(table, codes); }

ULP_INLINE void add_scaled(Vec sums, const RowGroup& of, const float* scales, const float* zeros, float* c) {
  __m256 x = _mm256_cvtepi32_ps(add_sums(sums, same_sums(of.start)));
  if (zeros) x = _mm256_fnmadd_ps(_mm256_loadu_ps(zeros), _mm256_set1_ps(of.sum), x);
  const __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(scales), _mm256_set1_ps(of.scale));
  _mm256_storeu_ps(c, _mm256_fmadd_ps(x, factor, _mm256_loadu_ps(c)));
}

}  // namespace
}  // namespace ulp

#include "tile_grouped.h"
