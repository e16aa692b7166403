// Decoding the dense layout (pack/layout.h) with AVX2: for kernel files built with -mavx2 only.
#pragma once

#include <immintrin.h>

#include "kernel.h"

// Before a loop over an array of vectors with constant bounds: gcc keeps the array in registers only if it unrolls the loop early.
#if defined(__GNUC__) && !defined(__clang__)
#define ULP_UNROLL _Pragma("GCC unroll 32")
#else
#define ULP_UNROLL
#endif

namespace ulp {
namespace {

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(uint8_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

// Byte-wise (x >> shift) & mask; the 16-bit shift brings in bits of the neighbour byte, which the mask drops.
template <int shift>
inline __m256i field(__m256i x, int mask) {
  return _mm256_and_si256(shift ? _mm256_srli_epi16(x, shift) : x, _mm256_set1_epi8(static_cast<char>(mask)));
}

// Bit `from` of every byte moved to bit `to`.
template <int from, int to>
inline __m256i move_bit(__m256i x) {
  const __m256i moved = from >= to ? _mm256_srli_epi16(x, from >= to ? from - to : 0) : _mm256_slli_epi16(x, from >= to ? 0 : to - from);
  return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(1 << to)));
}

template <int at>
inline void put_bits(__m256i x, __m256i v[8]) {
  v[0] = _mm256_or_si256(v[0], move_bit<0, at>(x));
  v[1] = _mm256_or_si256(v[1], move_bit<1, at>(x));
  v[2] = _mm256_or_si256(v[2], move_bit<2, at>(x));
  v[3] = _mm256_or_si256(v[3], move_bit<3, at>(x));
  v[4] = _mm256_or_si256(v[4], move_bit<4, at>(x));
  v[5] = _mm256_or_si256(v[5], move_bit<5, at>(x));
  v[6] = _mm256_or_si256(v[6], move_bit<6, at>(x));
  v[7] = _mm256_or_si256(v[7], move_bit<7, at>(x));
}

template <int at>
inline void put_pairs(__m256i x, __m256i v[4]) {
  constexpr int mask = 3 << at;
  v[0] = _mm256_or_si256(v[0], _mm256_and_si256(_mm256_slli_epi16(x, at), _mm256_set1_epi8(mask)));
  v[1] = _mm256_or_si256(v[1], _mm256_and_si256(_mm256_slli_epi16(x, at - 2), _mm256_set1_epi8(mask)));
  v[2] = _mm256_or_si256(v[2], field<0>(at == 4 ? x : _mm256_srli_epi16(x, 4 - at), mask));
  v[3] = _mm256_or_si256(v[3], field<2>(at == 4 ? x : _mm256_srli_epi16(x, 4 - at), mask));
}

// The eight vectors of a unit: byte 4 c + i of vector j is the code of column c, k = 4 j + i.
template <int bits>
inline void decode(const uint8_t* dense, __m256i v[8]) {
  if constexpr (bits == 1) {
    const __m256i x = load(dense);
    v[0] = field<0>(x, 1);
    v[1] = field<1>(x, 1);
    v[2] = field<2>(x, 1);
    v[3] = field<3>(x, 1);
    v[4] = field<4>(x, 1);
    v[5] = field<5>(x, 1);
    v[6] = field<6>(x, 1);
    v[7] = field<7>(x, 1);
  } else if constexpr (bits == 2) {
    for (int h = 0; h < 2; ++h) {
      const __m256i x = load(dense + h * kVector);
      v[4 * h] = field<0>(x, 3);
      v[4 * h + 1] = field<2>(x, 3);
      v[4 * h + 2] = field<4>(x, 3);
      v[4 * h + 3] = field<6>(x, 3);
    }
  } else if constexpr (bits == 3) {
    const __m256i x[3] = {load(dense), load(dense + kVector), load(dense + 2 * kVector)};
    for (int i = 0; i < 3; ++i) {
      v[i] = field<0>(x[i], 7);
      v[3 + i] = field<3>(x[i], 7);
    }
    v[6] = _mm256_or_si256(field<6>(x[0], 3), field<4>(x[2], 4));
    v[7] = _mm256_or_si256(field<6>(x[1], 3), field<5>(x[2], 4));
  } else if constexpr (bits == 8) {
    for (int j = 0; j < 8; ++j) v[j] = load(dense + j * kVector);
  } else {
    for (int i = 0; i < 4; ++i) {
      const __m256i x = load(dense + i * kVector);
      v[2 * i] = field<0>(x, 15);
      v[2 * i + 1] = field<4>(x, 15);
    }
    if constexpr (bits & 2) {
      put_pairs<4>(load(dense + 4 * kVector), v);
      put_pairs<4>(load(dense + 5 * kVector), v + 4);
    }
    if constexpr (bits & 1) put_bits<(bits & 2) ? 6 : 4>(load(dense + (bits - 1) * kVector), v);
  }
}

// A number as a type. Kernel files use no templates of std: their copies would carry AVX2 code under a shared name.
template <int n>
struct Int {
  static constexpr int value = n;
};

// f(Int<bits>) for a number of bits known at run time.
template <class F>
inline auto for_bits(int bits, F f) {
  switch (bits) {
    case 1: return f(Int<1>{});
    case 2: return f(Int<2>{});
    case 3: return f(Int<3>{});
    case 4: return f(Int<4>{});
    case 5: return f(Int<5>{});
    case 6: return f(Int<6>{});
    case 7: return f(Int<7>{});
    default: return f(Int<8>{});
  }
}

// The contract of kernel.h for 8 columns of one row: terms or the old value, plus the shifted accumulator.
inline void store_result(const Tile& t, int row, int unit, __m256i acc) {
  int32_t* c = t.c + row * t.ldc + unit * kUnitCols;
  __m256i* to = reinterpret_cast<__m256i*>(c);
  acc = _mm256_sll_epi32(acc, _mm_cvtsi32_si128(t.shift));
  const __m256i from = t.accumulate ? _mm256_loadu_si256(to)
                                    : _mm256_add_epi32(_mm256_set1_epi32(t.row[row]), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.col + unit * kUnitCols)));
  _mm256_storeu_si256(to, _mm256_add_epi32(from, acc));
}

}  // namespace
}  // namespace ulp
