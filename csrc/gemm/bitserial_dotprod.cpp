// bitserial with ARM's dot product, tile 3 x 32, one or two planes (tile_bitserial.h); with more, sdot does as much. The population count
// is cnt, and udot with 2^(p + q) in every byte adds four counts of planes p and q to the sum of a column: nothing is spilled, widened or
// shifted.
//
// KernelAtBits. Sums of int32 wrap modulo 2^32, as the driver expects.
//
// Ceiling: AND, cnt and udot for 128 bit-products, and a broadcast of A's word per 1024: 82 bit-products per cycle where two are
// issued per cycle (Neoverse N1), divided by a * b.
#include "planes_neon.h"

namespace ulp::bitserial_dotprod {
namespace {

constexpr int kMaxPlanes = 2;

struct Count {
  static constexpr bool kWeighted = true;
  static constexpr int kBlocksPerSpill = 1 << 26;

  static ULP_INLINE uint8x16_t weight(int shift) { return vdupq_n_u8(static_cast<uint8_t>(1 << shift)); }

  // In assembly, and volatile, for the reason given in dot_dotprod.cpp.
  static ULP_INLINE Vec add(Vec sum, Vec y, const uint8_t* p, uint8x16_t weight) {
    const uint8x16_t word = broadcast4(p);
    return halves(sum, y, [word, weight](uint8x16_t s, uint8x16_t v) {
      __asm__ volatile("udot %0.4s, %1.16b, %2.16b" : "+w"(s) : "w"(vcntq_u8(vandq_u8(v, word))), "w"(weight));
      return s;
    });
  }
};

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return a_bits * b_bits <= kMaxPlanes; });

KernelAtBits bind(int a_bits, int b_bits) { return bind_planes<Count, 3, 4, kMaxPlanes>(a_bits, b_bits); }

}  // namespace ulp::bitserial_dotprod
