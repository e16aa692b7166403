// dot on AVX-512 VNNI, tile 6 x 64, every pair (dot_x86.h).
//
// Ceiling on Sapphire Rapids: 24 vpdpbusd and 10 loads per step, two of each per cycle: 128 multiply-accumulates per cycle, all of it
// from L1. 8 x 32 reaches 101.
#include "bitpacked_avx512.h"

namespace ulp {
namespace {

// In assembly, and volatile, because gcc 12 otherwise stores every sum in every step.
#if defined(__GNUC__)
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b)); }
#else
ULP_INLINE void dot_add(Vec& sums, Vec a, Vec b) { sums = _mm512_dpbusd_epi32(sums, a, b); }
#endif

}  // namespace
}  // namespace ulp

#include "dot_x86.h"

namespace ulp::dot_avx512vnni {

bool supports(int, int) { return true; }

KernelAtBits bind(int, int b_bits) { return bind_dot<Dot<6, 4>>(b_bits); }

}  // namespace ulp::dot_avx512vnni
