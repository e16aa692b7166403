// mul8 on AVX2, tile 3 x 32 (mul8_x86.h).
//
//   Ceiling on Zen 3: 2 x 12 vector operations per step at 3.03 per cycle = 7.9 cycles for 384 multiply-accumulates, 48 per cycle. Twelve
//   accumulators leave four registers: rows 0 and 1 share each load of B, row 2 takes B from memory, 11 loads per step where two per cycle
//   may go.
#include "tile_multiply_avx2.h"

#include "mul8_x86.h"

namespace ulp::mul8_avx2 {

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return spill_every(a_bits, b_bits) > 0; });

KernelAtBits bind(int a_bits, int b_bits) { return bind_mul8<Op<Mul8>>(a_bits, b_bits, 1024); }

}  // namespace ulp::mul8_avx2
