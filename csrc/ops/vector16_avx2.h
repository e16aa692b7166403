// 16 floats as two vectors of AVX2.
#pragma once

#include "ops_avx2.h"

namespace ulp {
namespace {

struct Vector16 {
  __m256 low, high;

  static constexpr int tile_rows = 6;

  static ULP_INLINE Vector16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static ULP_INLINE Vector16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static ULP_INLINE __m256i lanes(int64_t n) { return first_lanes(n < 0 ? 0 : n < 8 ? n : 8); }
  // The first n of 16; the others are 0.
  static ULP_INLINE Vector16 load_first(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, lanes(n)), _mm256_maskload_ps(p + 8, lanes(n - 8))};
  }
  static ULP_INLINE Vector16 steps_of(__m128i codes, int zero) {
    const __m256i less = _mm256_set1_epi32(zero);
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(codes), less)),
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(codes, codes)), less))};
  }
  static ULP_INLINE Vector16 load_codes(const uint8_t* p, int zero) {
    return steps_of(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), zero);
  }
  static ULP_INLINE Vector16 load_first_codes(const uint8_t* p, int64_t n, int zero) {
    uint8_t bytes[16] = {};
    std::memcpy(bytes, p, static_cast<size_t>(n));
    return load_codes(bytes, zero);
  }
  // sums - zero * columns, modulo 2^32, as floats.
  static ULP_INLINE Vector16 load_sums(const int32_t* sums, const int32_t* columns, int32_t zero) {
    const auto half = [=](int at) {
      const __m256i shift = _mm256_mullo_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns + at)), _mm256_set1_epi32(zero));
      return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + at)), shift));
    };
    return {half(0), half(8)};
  }

  ULP_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  ULP_INLINE void store_first(float* p, int64_t n) const {
    _mm256_maskstore_ps(p, lanes(n), low);
    _mm256_maskstore_ps(p + 8, lanes(n - 8), high);
  }
  ULP_INLINE Vector16 first(int64_t n) const {
    return {_mm256_and_ps(low, _mm256_castsi256_ps(lanes(n))), _mm256_and_ps(high, _mm256_castsi256_ps(lanes(n - 8)))};
  }
  // Values of -255..255 that are integers, plus zero, as bytes.
  ULP_INLINE __m128i bytes(int zero) const {
    const __m256i less = _mm256_set1_epi32(zero);
    const __m256i words =
        _mm256_packs_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(low), less), _mm256_add_epi32(_mm256_cvtps_epi32(high), less));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  }
  ULP_INLINE void store_codes(uint8_t* p, int64_t n, int zero) const {
    n >= 16 ? _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes(zero)) : store_low(p, bytes(zero), n);
  }

  // Of values that are yet to be rounded: the conversion does it.
  ULP_INLINE void store_rounded(uint8_t* p, int64_t n, int zero) const { store_codes(p, n, zero); }

  static ULP_INLINE void store_four_rounded(uint8_t* p, const Vector16 (&x)[4], int zero) {
    const __m256i less = _mm256_set1_epi16(static_cast<int16_t>(zero));
    const auto words = [&](int i) {
      return _mm256_add_epi16(_mm256_packs_epi32(_mm256_cvtps_epi32(x[i].low), _mm256_cvtps_epi32(x[i].high)), less);
    };
    // Of two vectors: four codes of each of their halves, twice.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int i = 0; i < 4; i += 2) {
      const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words(i), words(i + 1)), order);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16 * i), bytes);
    }
  }

  ULP_INLINE Vector16 operator+(Vector16 o) const { return {_mm256_add_ps(low, o.low), _mm256_add_ps(high, o.high)}; }
  ULP_INLINE Vector16 operator-(Vector16 o) const { return {_mm256_sub_ps(low, o.low), _mm256_sub_ps(high, o.high)}; }
  ULP_INLINE Vector16 operator*(Vector16 o) const { return {_mm256_mul_ps(low, o.low), _mm256_mul_ps(high, o.high)}; }
  ULP_INLINE Vector16 operator/(Vector16 o) const { return {_mm256_div_ps(low, o.low), _mm256_div_ps(high, o.high)}; }
  // this * b + c, rounded once.
  ULP_INLINE Vector16 fma(Vector16 b, Vector16 c) const {
    return {_mm256_fmadd_ps(low, b.low, c.low), _mm256_fmadd_ps(high, b.high, c.high)};
  }
  // o where this is a NaN.
  ULP_INLINE Vector16 max(Vector16 o) const { return {_mm256_max_ps(low, o.low), _mm256_max_ps(high, o.high)}; }
  ULP_INLINE Vector16 min(Vector16 o) const { return {_mm256_min_ps(low, o.low), _mm256_min_ps(high, o.high)}; }
  ULP_INLINE Vector16 rint() const {
    return {_mm256_round_ps(low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // v * 2^n, n being integers of -126 .. 127.
  ULP_INLINE Vector16 times_power_of_2(Vector16 n) const {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_mul_ps(low, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.low), bias), 23))),
            _mm256_mul_ps(high, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.high), bias), 23)))};
  }
  ULP_INLINE Vector16 magnitude() const {
    const __m256 bits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    return {_mm256_and_ps(low, bits), _mm256_and_ps(high, bits)};
  }
  // a where this is below the limit, else b.
  ULP_INLINE Vector16 below(Vector16 limit, Vector16 a, Vector16 b) const {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_cmp_ps(low, limit.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(b.high, a.high, _mm256_cmp_ps(high, limit.high, _CMP_LT_OQ))};
  }
  ULP_INLINE float sum() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  ULP_INLINE float largest() const {
    const __m256 eight = _mm256_max_ps(low, high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

}  // namespace
}  // namespace ulp
