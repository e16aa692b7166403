// What the AVX2 files of this directory share.
#pragma once

#include <cstring>

#include "../gemm/bitpacked_avx2.h"
#include "ops_parts.h"

namespace ulp {
namespace {

// All bits in the first n of 8 lanes.
inline __m256i first_lanes(int64_t n) {
  static constexpr int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - n));
}

// The first n of 16 bytes, n < 16.
ULP_INLINE void store_low(uint8_t* p, __m128i v, int64_t n) {
  if (n & 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), v);
    v = _mm_unpackhi_epi64(v, v);
    p += 8;
  }
  if (n & 4) {
    const int32_t four = _mm_cvtsi128_si32(v);
    std::memcpy(p, &four, 4);
    v = _mm_srli_epi64(v, 32);
    p += 4;
  }
  if (n & 2) {
    const uint16_t two = static_cast<uint16_t>(_mm_cvtsi128_si32(v));
    std::memcpy(p, &two, 2);
    v = _mm_srli_epi32(v, 16);
    p += 2;
  }
  if (n & 1) *p = static_cast<uint8_t>(_mm_cvtsi128_si32(v));
}

// The first n of 16 bytes, n <= 16.
ULP_INLINE void store_first(uint8_t* p, __m128i v, int64_t n) {
  if (n == 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
  store_low(p, v, n);
}

// The first n of 32 bytes, n <= 32.
ULP_INLINE void store_first(uint8_t* p, __m256i v, int64_t n) {
  if (n == 32) return store(p, v);
  const __m128i low = _mm256_castsi256_si128(v);
  if (n < 16) return store_low(p, low, n);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low);
  store_low(p + 16, _mm256_extracti128_si256(v, 1), n - 16);
}

// The first n of 4 and 8 lanes of 32 bits.
ULP_INLINE void store_first(float* p, __m256 v, int64_t n) {
  if (n == 8) return _mm256_storeu_ps(p, v);
  __m128 x = _mm256_castps256_ps128(v);
  if (n & 4) {
    _mm_storeu_ps(p, x);
    x = _mm256_extractf128_ps(v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), x);
    x = _mm_movehl_ps(x, x);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, x);
}

ULP_INLINE void store_first(int32_t* p, __m256i v, int64_t n) { store_first(reinterpret_cast<float*>(p), _mm256_castsi256_ps(v), n); }

// The first n of 8 bytes, n < 8; the others are 0.
ULP_INLINE __m128i load_first(const uint8_t* p, int64_t n) {
  uint64_t x = 0;
  if (n & 4) {
    uint32_t four;
    std::memcpy(&four, p, 4);
    x = four;
  }
  if (n & 2) {
    uint16_t two;
    std::memcpy(&two, p + (n & 4), 2);
    x |= uint64_t{two} << (n & 4) * 8;
  }
  if (n & 1) x |= uint64_t{p[n & 6]} << (n & 6) * 8;
  return _mm_cvtsi64_si128(static_cast<int64_t>(x));
}

// The transpose of 8 x 8 elements of 32 bits.
ULP_INLINE void transpose(__m256 (&r)[8]) {
  __m256 pairs[8];
  ULP_UNROLL for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  __m256 fours[8];
  ULP_UNROLL for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
  }
  ULP_UNROLL for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

// What loops that serve several instruction sets are written with: a vector of floats, and the first n <= kFloats of its lanes.
using FloatVec = __m256;
constexpr int kFloats = 8;

struct Lanes {
  int64_t n;
  __m256i mask;
  explicit Lanes(int64_t count) : n(count), mask(first_lanes(count)) {}
};

ULP_INLINE FloatVec same(float x) { return _mm256_set1_ps(x); }
ULP_INLINE FloatVec plus(FloatVec x, FloatVec y) { return _mm256_add_ps(x, y); }
ULP_INLINE FloatVec times(FloatVec x, FloatVec y) { return _mm256_mul_ps(x, y); }
ULP_INLINE FloatVec times_plus(FloatVec x, FloatVec y, FloatVec z) { return _mm256_fmadd_ps(x, y, z); }
ULP_INLINE FloatVec quotient(FloatVec x, FloatVec y) { return _mm256_div_ps(x, y); }
ULP_INLINE FloatVec bounded(FloatVec v, FloatVec low, FloatVec high) { return _mm256_min_ps(high, _mm256_max_ps(low, v)); }
ULP_INLINE FloatVec to_floats(Vec x) { return _mm256_cvtepi32_ps(x); }
ULP_INLINE Vec same_ints(int x) { return _mm256_set1_epi32(x); }
ULP_INLINE Vec minus(Vec x, Vec y) { return _mm256_sub_epi32(x, y); }
ULP_INLINE Vec same_bytes(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }

template <bool part>
ULP_INLINE FloatVec load_floats(const float* p, const Lanes& lanes) {
  return part ? _mm256_maskload_ps(p, lanes.mask) : _mm256_loadu_ps(p);
}
template <bool part>
ULP_INLINE Vec load_ints(const int32_t* p, const Lanes& lanes) {
  return part ? _mm256_maskload_epi32(p, lanes.mask) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// Codes, one to a lane of 32 bits.
template <bool part>
ULP_INLINE Vec load_codes(const uint8_t* p, const Lanes& lanes) {
  return _mm256_cvtepu8_epi32(part ? load_first(p, lanes.n) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
template <bool part>
ULP_INLINE void store_floats(float* p, FloatVec v, const Lanes& lanes) {
  part ? store_first(p, v, lanes.n) : _mm256_storeu_ps(p, v);
}
ULP_INLINE __m128i low_bytes(Vec x) { return _mm256_castsi256_si128(x); }
// The codes of 1, 2 or 4 vectors of values, in the low bytes; of a part, one vector.
template <int vectors, bool part>
ULP_INLINE void store_codes(uint8_t* p, Vec codes, const Lanes& lanes) {
  if constexpr (vectors == 4) {
    store(p, codes);
  } else if constexpr (vectors == 2) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), low_bytes(codes));
  } else {
    part ? store_low(p, low_bytes(codes), lanes.n) : _mm_storel_epi64(reinterpret_cast<__m128i*>(p), low_bytes(codes));
  }
}

ULP_INLINE Vec smaller_bytes(Vec x, Vec y) { return _mm256_min_epu8(x, y); }
ULP_INLINE Vec larger_bytes(Vec x, Vec y) { return _mm256_max_epu8(x, y); }
// The first n <= kVecBytes; what lies behind them is read, too.
ULP_INLINE Vec load_first_bytes(const uint8_t* p, int64_t) { return load(p); }
ULP_INLINE void store_first_bytes(uint8_t* p, Vec x, int64_t n) { store_first(p, x, n); }
ULP_INLINE Vec plus_bytes(Vec x, Vec y) { return _mm256_add_epi8(x, y); }

// Roundings are to int32, which is the smallest one where a value, or a NaN, is not.
ULP_INLINE FloatVec at_most(FloatVec limit, FloatVec v) { return _mm256_min_ps(limit, v); }
ULP_INLINE Vec to_ints(FloatVec v) { return _mm256_cvtps_epi32(v); }
ULP_INLINE Vec same_words(int x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
ULP_INLINE Vec plus_words(Vec x, Vec y) { return _mm256_adds_epi16(x, y); }
ULP_INLINE Vec packed_words(Vec x, Vec y) { return _mm256_packs_epi32(x, y); }
// Of four vectors of ints, packed to words two by two: as bytes, in their order.
ULP_INLINE Vec packed_bytes(Vec x, Vec y) {
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(x, y), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace
}  // namespace ulp

#include "coder_x86.h"
