// ULPPACK's P1 on NEON by mla on 16-bit lanes, tile 3 x 32; the bounds are in tile_ulppack.h.
#include "ulppack_neon.h"

namespace ulp::ulppack_p1_neon {

extern constexpr BitPairs pairs = pairs_where(supports1);

KernelAtBits bind(int a_bits, int b_bits) { return bind1(a_bits, b_bits); }

}  // namespace ulp::ulppack_p1_neon
