// mul8 on AVX-512, tile 6 x 64 (mul8_x86.h). For CPUs that have AVX-512 and not VNNI: Skylake-X.
//
// Ceiling on Sapphire Rapids: 48 vector operations and 10 loads per step at 1.7 operations per cycle: 54 multiply-accumulates per cycle,
// where AVX2 has 45 of registers only. Two operations per cycle, as Skylake-X with its second multiplier is assumed to do, would be 64.
#include "bitpacked_avx512.h"

#include "mul8_x86.h"
#include "multiply_avx512.h"
#include "tile_registers_x86.h"

namespace ulp::mul8_avx512 {

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return spill_every(a_bits, b_bits) > 0; });

KernelAtBits bind(int a_bits, int b_bits) { return bind_mul8<RegisterTile<MultiplyStep<false>, 6, 4>>(a_bits, b_bits, 512); }

}  // namespace ulp::mul8_avx512
