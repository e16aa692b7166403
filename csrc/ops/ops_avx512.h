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
ULP_INLINE FloatVec times_plus(FloatVec x, FloatVec y, FloatVec z) { return _mm512_fmadd_ps(x, y, z); }
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
ULP_INLINE __m128i low_bytes(Vec x) { return _mm512_castsi512_si128(x); }
// The codes of 1, 2 or 4 vectors of values, in the low bytes; of a part, one vector.
template <int vectors, bool part>
ULP_INLINE void store_codes(uint8_t* p, Vec codes, const Lanes& lanes) {
  if constexpr (vectors == 4) {
    store(p, codes);
  } else if constexpr (vectors == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(codes));
  } else {
    part ? _mm_mask_storeu_epi8(p, lanes.mask, low_bytes(codes)) : _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low_bytes(codes));
  }
}

ULP_INLINE Vec smaller_bytes(Vec x, Vec y) { return _mm512_min_epu8(x, y); }
ULP_INLINE Vec larger_bytes(Vec x, Vec y) { return _mm512_max_epu8(x, y); }
// The first n <= kVecBytes.
ULP_INLINE Vec load_first_bytes(const uint8_t* p, int64_t n) { return _mm512_maskz_loadu_epi8(first_bytes(n), p); }
ULP_INLINE void store_first_bytes(uint8_t* p, Vec x, int64_t n) { _mm512_mask_storeu_epi8(p, first_bytes(n), x); }
ULP_INLINE Vec plus_bytes(Vec x, Vec y) { return _mm512_add_epi8(x, y); }

ULP_INLINE FloatVec at_most(FloatVec limit, FloatVec v) { return _mm512_min_ps(limit, v); }
ULP_INLINE Vec to_ints(FloatVec v) { return _mm512_cvtps_epi32(v); }
ULP_INLINE Vec same_words(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
ULP_INLINE Vec plus_words(Vec x, Vec y) { return _mm512_adds_epi16(x, y); }
ULP_INLINE Vec packed_words(Vec x, Vec y) { return _mm512_packs_epi32(x, y); }
ULP_INLINE Vec packed_bytes(Vec x, Vec y) {
  const Vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(x, y));
}

}  // namespace
}  // namespace ulp

#include "coder_x86.h"
