// dot on AVX-VNNI, tile 3 x 32, every pair (dot_x86.h). For CPUs that have this and not AVX-512.
//
// Ceiling: 12 vpdpbusd and 7 loads per step, two of each per cycle: 64 multiply-accumulates per cycle.
#include "bitpacked_avx2.h"

namespace ulp {
namespace {

inline Vec zero() { return _mm256_setzero_si256(); }
// In assembly for the reason given in dot_avx512vnni.cpp.
#if defined(__GNUC__)
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b)); }
#else
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { sums = _mm256_dpbusd_avx_epi32(sums, a, b); }
#endif

}  // namespace
}  // namespace ulp

#include "dot_x86.h"

namespace ulp::dot_avxvnni {

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) { return bind_dot<RegisterTile<Dot, 3, 4>>(b_bits, 512); }

}  // namespace ulp::dot_avxvnni
