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

// For helpers that take accumulators by reference: one call that is not inlined puts them all in memory.
#if defined(__GNUC__)
#define ULP_INLINE inline __attribute__((always_inline))
#else
#define ULP_INLINE __forceinline
#endif

namespace ulp {
namespace {

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(uint8_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

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

// A number as a type. Kernel files use no templates of std: their copies would carry AVX2 code under a shared name.
template <int n>
struct Int {
  static constexpr int value = n;
};

// f(Int<bits>) for a number of bits known at run time.
template <class F>
inline auto for_bits(int bits, F f) {
  switch (bits) {
    case 1:
      return f(Int<1>{});
    case 2:
      return f(Int<2>{});
    case 3:
      return f(Int<3>{});
    case 4:
      return f(Int<4>{});
    case 5:
      return f(Int<5>{});
    case 6:
      return f(Int<6>{});
    case 7:
      return f(Int<7>{});
    default:
      return f(Int<8>{});
  }
}

// f(Int<0>), f(Int<1>), ... f(Int<n - 1>): a loop whose counter is a constant in the body.
template <int n, class F>
inline void unrolled(F f) {
  if constexpr (n > 0) {
    unrolled<n - 1>(f);
    f(Int<n - 1>{});
  }
}

// Byte-wise x << shift, or x >> -shift, masked.
template <int shift>
inline __m256i moved(__m256i x, int mask) {
  return field<0>(shift < 0 ? _mm256_srli_epi16(x, shift < 0 ? -shift : 0) : _mm256_slli_epi16(x, shift < 0 ? 0 : shift), mask);
}

// Vector j of a unit: byte 4 c + i is the code of column c, k = 4 j + i. The fields are drawn in pack/layout.h.
template <int bits, int j>
inline __m256i code_vector(const uint8_t* dense) {
  const auto x = [dense](int i) { return load(dense + i * kVector); };
  if constexpr (bits == 1) {
    return field<j>(x(0), 1);
  } else if constexpr (bits == 2) {
    return field<j % 4 * 2>(x(j / 4), 3);
  } else if constexpr (bits == 3 && j < 6) {
    return field<j / 3 * 3>(x(j % 3), 7);
  } else if constexpr (bits == 3) {
    return _mm256_or_si256(field<6>(x(j - 6), 3), field<j - 2>(x(2), 4));
  } else if constexpr (bits == 8) {
    return x(j);
  } else {
    __m256i v = field<j % 2 * 4>(x(j / 2), 15);
    if constexpr (bits & 2) v = _mm256_or_si256(v, moved<4 - j % 4 * 2>(x(4 + j / 4), 3 << 4));
    if constexpr (bits & 1) v = _mm256_or_si256(v, moved<bits - 1 - j>(x(bits - 1), 1 << (bits - 1)));
    return v;
  }
}

template <int bits>
inline void decode(const uint8_t* dense, __m256i v[8]) {
  unrolled<8>([&](auto j) { v[j.value] = code_vector<bits, j.value>(dense); });
}

// C is written once a tile and by then has long left the first-level cache: fetched while the sums are made, the stores need not wait.
template <int rows, int units>
ULP_INLINE void prefetch_c(const Tile& t) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    const char* c = reinterpret_cast<const char*>(t.c + r * t.ldc);
    ULP_UNROLL for (int i = 0; i < units * kUnitCols * 4; i += 64) _mm_prefetch(c + i, _MM_HINT_T0);
  }
}

// What a row's results start from besides the columns' terms (or the old values): read before the first store to C, which might alias it.
ULP_INLINE __m256i row_term(const Tile& t, int row) { return _mm256_set1_epi32(t.accumulate || !t.row ? 0 : t.row[row]); }

// The contract of kernel.h for 8 columns of one row: terms or the old value, plus the shifted accumulator.
ULP_INLINE void store_result(const Tile& t, int row, int unit, __m256i term, __m256i acc) {
  int32_t* c = t.c + row * t.ldc + unit * kUnitCols;
  const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.accumulate ? c : t.col + unit * kUnitCols));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(from, term), _mm256_sll_epi32(acc, _mm_cvtsi32_si128(t.shift)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(c), sum);
}

}  // namespace
}  // namespace ulp
