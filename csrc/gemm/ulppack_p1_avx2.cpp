// ULPPACK's P1 on AVX2 by vpmullw, tile 3 x 32; the bounds are in tile_ulppack.h.
#include "ulppack_avx2.h"

namespace ulp::ulppack_p1_avx2 {

extern constexpr BitPairs pairs = pairs_where(supports1);

KernelAtBits bind(int a_bits, int b_bits) { return bind1(a_bits, b_bits); }

}  // namespace ulp::ulppack_p1_avx2
