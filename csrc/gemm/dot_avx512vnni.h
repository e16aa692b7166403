// vpdpbusd on zmm: for kernel files built for AVX-512 VNNI only.
#pragma once

#include "bitpacked_avx512.h"

namespace ulp {
namespace {

// sums += four products of u8 (a) and s8 (b) each. In assembly, and volatile, because gcc 12 otherwise stores every sum in every step.
#if defined(__GNUC__)
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b)); }
// b passes by in memory.
ULP_INLINE void dot_add(Vec& sums, Vec a, const uint8_t* b) {
  __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "m"(*reinterpret_cast<const __m512i*>(b)));
}
#else
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { sums = _mm512_dpbusd_epi32(sums, a, b); }
ULP_INLINE void dot_add(Vec& sums, Vec a, const uint8_t* b) { dot_add(sums, a, load(b)); }
#endif

}  // namespace
}  // namespace ulp
