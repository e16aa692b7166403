// ULPPACK's P1 on AVX2 by vpmullw, tile 3 x 32; the bounds are in tile_ulppack.h.
#include "ulppack_avx2.h"

namespace ulp::ulppack_p1_avx2 {

bool supports(int a_bits, int b_bits) { return supports1(a_bits, b_bits); }

KernelAtBits bind(int a_bits, int b_bits) { return bind1(a_bits, b_bits); }

}  // namespace ulp::ulppack_p1_avx2
