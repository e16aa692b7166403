// bitserial on NEON, tile 4 x 32 (tile_bitserial.h). The population count is the CPU's own, cnt.
//
// Ceiling: AND, cnt and add for 128 bit-products; 85 bit-products per cycle where two are issued per cycle (Cortex-A72, Neoverse N1),
// divided by a * b.
#include "planes_neon.h"

namespace ulp {
namespace {

struct Count {
  static constexpr bool kWeighted = false;

  // A byte grows by at most 8 per block.
  static constexpr int kBlocksPerSpill = 31;
  static_assert(kBlocksPerSpill * 8 <= 255, "u8 counts");

  static ULP_INLINE Vec add(Vec acc, Vec y, const uint8_t* p) {
    const uint8x16_t word = broadcast4(p);
    return halves(acc, y, [word](uint8x16_t sum, uint8x16_t v) { return vaddq_u8(sum, vcntq_u8(vandq_u8(v, word))); });
  }

  static ULP_INLINE Vec columns(Vec acc) {
    return halves(acc, [](uint8x16_t v) { return vreinterpretq_u8_u32(vpaddlq_u16(vpaddlq_u8(v))); });
  }
};

}  // namespace
}  // namespace ulp

namespace ulp::bitserial_neon {

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) { return bind_planes<Count, 4, 2>(a_bits, b_bits); }

}  // namespace ulp::bitserial_neon
