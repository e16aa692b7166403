// Multiplication and addition in two instructions, for CPUs with AVX-512 and no VNNI. After bitpacked_avx512.h.
#pragma once

#include "kernel_util.h"

namespace ulp {
namespace {

// The Step of tile_registers_x86.h. words: two products of s16 per int32 lane; else two of u8 (x) and s8 (y) per lane of 16 bits.
template <bool words>
struct MultiplyStep {
  static constexpr bool kSpills = !words;
  static constexpr bool kAdds = words;

  static ULP_INLINE void add(Vec& sums, Vec x, Vec y) {
#if defined(__GNUC__)
    // In assembly for the reason given in dot_avx512vnni.h.
    Vec product;
    if constexpr (words) {
      __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sums), "=&v"(product) : "v"(x), "v"(y));
    } else {
      __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sums), "=&v"(product) : "v"(x), "v"(y));
    }
#else
    sums = words ? _mm512_add_epi32(sums, _mm512_madd_epi16(x, y)) : _mm512_add_epi16(sums, _mm512_maddubs_epi16(x, y));
#endif
  }

  static ULP_INLINE Vec widen(Vec sums) { return words ? sums : _mm512_madd_epi16(sums, _mm512_set1_epi16(1)); }
};

}  // namespace
}  // namespace ulp
