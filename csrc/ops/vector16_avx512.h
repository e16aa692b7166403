// 16 floats as a vector of AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../gemm/kernel_util.h"

namespace ulp {
namespace {

struct Vector16 {
  __m512 v;

  static constexpr int tile_rows = 12;

  static ULP_INLINE __mmask16 lanes(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xFFFF : (1u << n) - 1); }
  static ULP_INLINE Vector16 all(float x) { return {_mm512_set1_ps(x)}; }
  static ULP_INLINE Vector16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static ULP_INLINE Vector16 load_first(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(lanes(n), p)}; }
  static ULP_INLINE Vector16 steps_of(__m128i codes, int zero) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32(zero)))};
  }
  static ULP_INLINE Vector16 load_codes(const uint8_t* p, int zero) {
    return steps_of(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), zero);
  }
  static ULP_INLINE Vector16 load_first_codes(const uint8_t* p, int64_t n, int zero) {
    return steps_of(_mm_maskz_loadu_epi8(lanes(n), p), zero);
  }
  // sums - zero * columns, modulo 2^32, as floats.
  static ULP_INLINE Vector16 load_sums(const int32_t* sums, const int32_t* columns, int32_t zero) {
    const __m512i shift = _mm512_mullo_epi32(_mm512_loadu_si512(columns), _mm512_set1_epi32(zero));
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums), shift))};
  }

  ULP_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  ULP_INLINE void store_first(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, lanes(n), v); }
  ULP_INLINE Vector16 first(int64_t n) const { return {_mm512_maskz_mov_ps(lanes(n), v)}; }
  ULP_INLINE void store_codes(uint8_t* p, int64_t n, int zero) const {
    const __m512i codes = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero));
    _mm_mask_storeu_epi8(p, lanes(n), _mm512_cvtepi32_epi8(codes));
  }

  // Of values that are yet to be rounded: the conversion does it.
  ULP_INLINE void store_rounded(uint8_t* p, int64_t n, int zero) const { store_codes(p, n, zero); }

  static ULP_INLINE void store_four_rounded(uint8_t* p, const Vector16 (&x)[4], int zero) {
    const __m512i less = _mm512_set1_epi16(static_cast<int16_t>(zero));
    const __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0].v), _mm512_cvtps_epi32(x[1].v));
    const __m512i second = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2].v), _mm512_cvtps_epi32(x[3].v));
    const __m512i bytes = _mm512_packus_epi16(_mm512_add_epi16(first, less), _mm512_add_epi16(second, less));
    // Four codes of each of x[0], x[1], x[2], x[3], four times.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, bytes));
  }

  ULP_INLINE Vector16 operator+(Vector16 o) const { return {_mm512_add_ps(v, o.v)}; }
  ULP_INLINE Vector16 operator-(Vector16 o) const { return {_mm512_sub_ps(v, o.v)}; }
  ULP_INLINE Vector16 operator*(Vector16 o) const { return {_mm512_mul_ps(v, o.v)}; }
  ULP_INLINE Vector16 operator/(Vector16 o) const { return {_mm512_div_ps(v, o.v)}; }
  ULP_INLINE Vector16 fma(Vector16 b, Vector16 c) const { return {_mm512_fmadd_ps(v, b.v, c.v)}; }
  ULP_INLINE Vector16 max(Vector16 o) const { return {_mm512_max_ps(v, o.v)}; }
  ULP_INLINE Vector16 min(Vector16 o) const { return {_mm512_min_ps(v, o.v)}; }
  ULP_INLINE Vector16 rint() const { return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  // v * 2^n, n being integers.
  ULP_INLINE Vector16 times_power_of_2(Vector16 n) const { return {_mm512_scalef_ps(v, n.v)}; }
  ULP_INLINE Vector16 magnitude() const { return {_mm512_abs_ps(v)}; }
  ULP_INLINE Vector16 below(Vector16 limit, Vector16 a, Vector16 b) const {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(v, limit.v, _CMP_LT_OQ), b.v, a.v)};
  }
  ULP_INLINE float sum() const {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  ULP_INLINE float largest() const {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

}  // namespace
}  // namespace ulp
