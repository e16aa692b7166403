// bitserial on NEON, tile 4 x 32 (tile_bitserial.h). The population count is the CPU's own, cnt.
//
// Ceiling: AND, cnt and add for 128 bit-products; 85 bit-products per cycle where two are issued per cycle (Cortex-A72, Neoverse N1),
// divided by a * b.
#include "bitpacked_neon.h"

namespace ulp {
namespace {

// A byte grows by at most 8 per block.
constexpr int kBlocksPerSpill = 31;
static_assert(kBlocksPerSpill * 8 <= 255, "u8 counts");

uint32_t plane_word(const uint8_t* p, int plane) {
  const Vec codes = load(p);
  const int8x16_t lane = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>(1 << plane));
  const uint8x16_t lo = vshlq_u8(vandq_u8(codes.lo, mask), vsubq_s8(lane, vdupq_n_s8(static_cast<int8_t>(plane))));
  const uint8x16_t hi = vshlq_u8(vandq_u8(codes.hi, mask), vsubq_s8(lane, vdupq_n_s8(static_cast<int8_t>(plane - 4))));
  return vaddvq_u32(vreinterpretq_u32_u8(vorrq_u8(lo, hi)));  // lanes have no bit in common
}

ULP_INLINE Vec count_both(Vec acc, Vec y, const uint8_t* p) {
  const uint8x16_t word = broadcast4(p);
  return halves(acc, y, [word](uint8x16_t sum, uint8x16_t v) { return vaddq_u8(sum, vcntq_u8(vandq_u8(v, word))); });
}

ULP_INLINE Vec column_counts(Vec acc, int shift) {
  return shift_sums(halves(acc, [](uint8x16_t v) { return vreinterpretq_u8_u32(vpaddlq_u16(vpaddlq_u8(v))); }), shift);
}

}  // namespace
}  // namespace ulp

#include "tile_bitserial.h"

namespace ulp::bitserial_neon {

bool supports(int, int) { return true; }

KernelAtBits bind(int a_bits, int b_bits) { return bind_planes<4, 2>(a_bits, b_bits); }

}  // namespace ulp::bitserial_neon
