// The bitpacked layout with AVX-512: a vector holds those of two adjacent units, 16 columns. For kernel files built with AVX-512 only.
//
// A tile with an odd number of units ends in half a vector: its loads of panels run over into the next step, and its upper columns are
// neither read from `col` nor stored.
#pragma once

#include <immintrin.h>

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

using Vec = __m512i;
constexpr int kVecUnits = 2;

// Two units; the second is the first once more where a panel ends.
struct Units {
  const uint8_t* first;
  const uint8_t* second;
};

inline Vec load(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store(uint8_t* p, Vec v) { _mm512_storeu_si512(p, v); }
inline Vec zero() { return _mm512_setzero_si512(); }

inline Vec stored(Units units, int i) {
  const auto half = [i](const uint8_t* unit) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit + i * kVector)); };
  return _mm512_inserti64x4(_mm512_castsi256_si512(half(units.first)), half(units.second), 1);
}

// Units u and u + 1 of the `count` of a K-block that lie from `at` on.
inline Units units_at(const uint8_t* at, int64_t unit_bytes, int u, int count) {
  return {at + u * unit_bytes, at + (u + 1 < count ? u + 1 : u) * unit_bytes};
}

// Units u and u + 1 of K-block kb.
inline Units units_of(const BitpackedSlice& s, int64_t kb, int u) {
  return {bitpacked_unit(s, kb, u), bitpacked_unit(s, kb, u + 1 < s.units ? u + 1 : u)};
}

// The lanes of the `units` that are left from a vector on.
inline __mmask16 lanes_of(int units) { return units > 1 ? 0xFFFF : 0x00FF; }
inline void store_units(uint8_t* p, Vec v, int units) { _mm512_mask_storeu_epi32(p, lanes_of(units), v); }

// Four bytes in every 32-bit lane: four k of a row, or what a kernel has made of them.
inline Vec broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// Byte-wise (x >> shift) & mask; the 16-bit shift brings in bits of the neighbour byte, which the mask drops.
template <int shift>
inline Vec field(Vec x, int mask) {
  return _mm512_and_si512(shift ? _mm512_srli_epi16(x, shift) : x, _mm512_set1_epi8(static_cast<char>(mask)));
}

// Byte-wise x << shift, or x >> -shift, masked.
template <int shift>
inline Vec moved(Vec x, int mask) {
  return field<0>(shift < 0 ? _mm512_srli_epi16(x, shift < 0 ? -shift : 0) : _mm512_slli_epi16(x, shift < 0 ? 0 : shift), mask);
}

inline Vec subtract_bytes(Vec x, int byte) { return _mm512_sub_epi8(x, _mm512_set1_epi8(static_cast<char>(byte))); }
inline Vec either(Vec x, Vec y) { return _mm512_or_si512(x, y); }

}  // namespace
}  // namespace ulp

#include "bitpacked.h"

namespace ulp {
namespace {

// 16 sums of int32, kept in aligned memory, or anywhere; there those of the `units` that are left.
inline Vec load_sums(const int32_t* p) { return _mm512_load_si512(p); }
inline void store_sums(int32_t* p, Vec v) { _mm512_store_si512(p, v); }
inline Vec load_columns(const int32_t* p, int units) { return _mm512_maskz_loadu_epi32(lanes_of(units), p); }
inline void store_columns(int32_t* p, Vec v, int units) { _mm512_mask_storeu_epi32(p, lanes_of(units), v); }
inline Vec add_sums(Vec x, Vec y) { return _mm512_add_epi32(x, y); }
inline Vec same_sums(int32_t value) { return _mm512_set1_epi32(value); }
inline Vec shift_sums(Vec x, int shift) { return _mm512_sllv_epi32(x, _mm512_set1_epi32(shift)); }

}  // namespace
}  // namespace ulp

#include "bitpacked_x86.h"
#include "tile_store.h"
