// mul8 on AVX-512, tile 6 x 64 (mul8_x86.h). For CPUs that have AVX-512 and not VNNI: Skylake-X.
//
// Ceiling on Sapphire Rapids: 48 vector operations and 10 loads per step at 1.7 operations per cycle: 54 multiply-accumulates per cycle,
// where AVX2 has 45 of registers only. Two operations per cycle, as Skylake-X with its second multiplier is assumed to do, would be 64.
#include "bitpacked_avx512.h"

#include "mul8_x86.h"
#include "tile_registers_x86.h"

namespace ulp::mul8_avx512 {
namespace {

struct Step {
  static constexpr bool kSpills = true;
  static constexpr bool kAdds = false;
  // In assembly for the reason given in dot_avx512vnni.h.
  static ULP_INLINE void add(Vec& sums, Vec x, Vec y) {
#if defined(__GNUC__)
    Vec product;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sums), "=&v"(product) : "v"(x), "v"(y));
#else
    sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(x, y));
#endif
  }
  static ULP_INLINE Vec widen(Vec sums) { return _mm512_madd_epi16(sums, _mm512_set1_epi16(1)); }
};

}  // namespace

bool supports(int a_bits, int b_bits) { return spill_every(a_bits, b_bits) > 0; }

KernelAtBits bind(int a_bits, int b_bits) { return bind_mul8<RegisterTile<Step, 6, 4>>(a_bits, b_bits, 512); }

}  // namespace ulp::mul8_avx512
