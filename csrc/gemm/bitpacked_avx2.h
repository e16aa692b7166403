// The bitpacked layout with AVX2: for kernel files built with -mavx2 only.
#pragma once

#include <immintrin.h>

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

using Vec = __m256i;
using Units = const uint8_t*;
constexpr int kVecUnits = 1;

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(uint8_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Vec stored(Units unit, int i) { return load(unit + i * kVector); }
inline Units units_at(const uint8_t* at, int64_t unit_bytes, int u, int) { return at + u * unit_bytes; }
inline Units units_of(const BitpackedSlice& s, int64_t kb, int u) { return bitpacked_unit(s, kb, u); }
inline void store_units(uint8_t* p, Vec v, int) { store(p, v); }

// Four bytes in every 32-bit lane: four k of a row, or what a kernel has made of them.
inline __m256i broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// Byte-wise (x >> shift) & mask; the 16-bit shift brings in bits of the neighbour byte, which the mask drops.
template <int shift>
inline __m256i field(__m256i x, int mask) {
  return _mm256_and_si256(shift ? _mm256_srli_epi16(x, shift) : x, _mm256_set1_epi8(static_cast<char>(mask)));
}

// Byte-wise x << shift, or x >> -shift, masked.
template <int shift>
inline __m256i moved(__m256i x, int mask) {
  return field<0>(shift < 0 ? _mm256_srli_epi16(x, shift < 0 ? -shift : 0) : _mm256_slli_epi16(x, shift < 0 ? 0 : shift), mask);
}

inline __m256i subtract_bytes(__m256i x, int byte) { return _mm256_sub_epi8(x, _mm256_set1_epi8(static_cast<char>(byte))); }
inline __m256i either(__m256i x, __m256i y) { return _mm256_or_si256(x, y); }

}  // namespace
}  // namespace ulp

#include "bitpacked.h"

namespace ulp {
namespace {

// 8 sums of int32, kept in aligned memory, or anywhere.
inline Vec load_sums(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_sums(int32_t* p, Vec v) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), v); }
inline Vec load_columns(const int32_t* p, int) { return load(reinterpret_cast<const uint8_t*>(p)); }
inline void store_columns(int32_t* p, Vec v, int) { store(reinterpret_cast<uint8_t*>(p), v); }
inline Vec add_sums(Vec x, Vec y) { return _mm256_add_epi32(x, y); }
inline Vec same_sums(int32_t value) { return _mm256_set1_epi32(value); }
inline Vec shift_sums(Vec x, int shift) { return _mm256_sll_epi32(x, _mm_cvtsi32_si128(shift)); }

}  // namespace
}  // namespace ulp

#include "bitpacked_x86.h"
#include "tile_store.h"
