// ULPPACK's P2 on AVX2 by vpmulld, tile 3 x 32; the bounds are in tile_ulppack.h.
#include "ulppack_avx2.h"

namespace ulp::ulppack_p2_avx2 {

extern constexpr BitPairs pairs = pairs_where(supports2);

KernelAtBits bind(int a_bits, int b_bits) { return bind2(a_bits, b_bits); }

}  // namespace ulp::ulppack_p2_avx2
