// What the AVX-512 files of this directory share: the same names as in ops_avx2.h, for vectors of twice the width.
#pragma once

#include "../gemm/bitpacked_avx512.h"
#include "ops_parts.h"

namespace ulp {
namespace {

using FloatVec = __m512;
constexpr int kFloats = 16;

struct Lanes {
  __mmask16 mask;
  explicit Lanes(int64_t n) : mask(static_cast<__mmask16>((1u << n) - 1)) {}
};

// The first n of 64 bytes, n <= 64.
inline __mmask64 first_bytes(int64_t n) { return n < 64 ? (__mmask64{1} << n) - 1 : ~__mmask64{0}; }

ULP_INLINE FloatVec same(float x) { return _mm512_set1_ps(x); }
ULP_INLINE FloatVec plus(FloatVec x, FloatVec y) { return _mm512_add_ps(x, y); }
ULP_INLINE FloatVec times(FloatVec x, FloatVec y) { return _mm512_mul_ps(x, y); }
ULP_INLINE FloatVec quotient(FloatVec x, FloatVec y) { return _mm512_div_ps(x, y); }
ULP_INLINE FloatVec bounded(FloatVec v, FloatVec low, FloatVec high) { return _mm512_min_ps(high, _mm512_max_ps(low, v)); }
ULP_INLINE FloatVec to_floats(Vec x) { return _mm512_cvtepi32_ps(x); }
ULP_INLINE Vec same_ints(int x) { return _mm512_set1_epi32(x); }
ULP_INLINE Vec minus(Vec x, Vec y) { return _mm512_sub_epi32(x, y); }
ULP_INLINE Vec same_bytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }

template <bool part>
ULP_INLINE FloatVec load_floats(const float* p, const Lanes& lanes) {
  return part ? _mm512_maskz_loadu_ps(lanes.mask, p) : _mm512_loadu_ps(p);
}
template <bool part>
ULP_INLINE Vec load_ints(const int32_t* p, const Lanes& lanes) {
  return part ? _mm512_maskz_loadu_epi32(lanes.mask, p) : _mm512_loadu_si512(p);
}
// Codes, one to a lane of 32 bits.
template <bool part>
ULP_INLINE Vec load_codes(const uint8_t* p, const Lanes& lanes) {
  return _mm512_cvtepu8_epi32(part ? _mm_maskz_loadu_epi8(lanes.mask, p) : _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <bool part>
ULP_INLINE void store_floats(float* p, FloatVec v, const Lanes& lanes) {
  part ? _mm512_mask_storeu_ps(p, lanes.mask, v) : _mm512_storeu_ps(p, v);
}
// The codes of one vector of values.
template <bool part>
ULP_INLINE void store_codes(uint8_t* p, __m128i codes, const Lanes& lanes) {
  part ? _mm_mask_storeu_epi8(p, lanes.mask, codes) : _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
}

ULP_INLINE __m128i low_bytes(Vec x) { return _mm512_castsi512_si128(x); }
ULP_INLINE Vec smaller_bytes(Vec x, Vec y) { return _mm512_min_epu8(x, y); }
ULP_INLINE Vec larger_bytes(Vec x, Vec y) { return _mm512_max_epu8(x, y); }
ULP_INLINE Vec plus_bytes(Vec x, Vec y) { return _mm512_add_epi8(x, y); }

// As in ops_avx2.h.
struct Coder {
  __m512 inverse;
  __m512 limit;
  __m512i zero;
  bool has_zero;

  explicit Coder(const Target& t)
      : inverse(same(t.inverse)),
        limit(same(static_cast<float>(t.max_code - t.zero))),
        zero(_mm512_set1_epi16(static_cast<int16_t>(t.zero))),
        has_zero(t.zero != 0) {}

  template <bool limited>
  ULP_INLINE __m512i round(__m512 v) const {
    const __m512 scaled = times(v, inverse);
    return _mm512_cvtps_epi32(limited ? _mm512_min_ps(limit, scaled) : scaled);
  }

  ULP_INLINE __m512i pack(__m512i a, __m512i b) const {
    const __m512i words = _mm512_packs_epi32(a, b);
    return has_zero ? _mm512_adds_epi16(words, zero) : words;
  }

  // 64 codes in their order from 16-bit ones as `pack` leaves them.
  ULP_INLINE __m512i bytes(__m512i low, __m512i high) const {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
  }

  // 64 values to 64 codes in their order.
  template <bool limited = true>
  ULP_INLINE __m512i codes(const __m512 v[4]) const {
    return bytes(pack(round<limited>(v[0]), round<limited>(v[1])), pack(round<limited>(v[2]), round<limited>(v[3])));
  }

  // 16 values to 16 codes.
  template <bool limited = true>
  ULP_INLINE __m128i codes(__m512 v) const {
    const __m256i words = _mm256_adds_epi16(_mm512_cvtsepi32_epi16(round<limited>(v)), _mm512_castsi512_si256(zero));
    return _mm256_cvtusepi16_epi8(_mm256_max_epi16(words, _mm256_setzero_si256()));
  }
};

}  // namespace
}  // namespace ulp
