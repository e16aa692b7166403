// stream on ARM's dot product: udot by lane, tile 4 x 32, every pair (tile_stream.h).
//
// KernelAtBits: four products go to u32, which wraps modulo 2^32, as the driver expects.
#include "bitpacked_neon.h"
#include "tile_stream.h"

namespace ulp::stream_dotprod {
namespace {

struct Udot {
  template <int rows>
  static constexpr int kVecs = rows == 1 ? 2 : 1;
  using Operand = uint8x16_t;

  struct Lanes {
    uint32x4_t lo = vdupq_n_u32(0);
    uint32x4_t hi = vdupq_n_u32(0);
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE uint8x16_t operand(const uint8_t* a) {
    return vld1q_u8(a + 16 * (j / 4));
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, uint8x16_t x, Vec codes) {
    s.lo = vdotq_laneq_u32(s.lo, codes.lo, x, j % 4);
    s.hi = vdotq_laneq_u32(s.hi, codes.hi, x, j % 4);
  }

  static ULP_INLINE Vec columns(const Lanes& s) { return {vreinterpretq_u8_u32(s.lo), vreinterpretq_u8_u32(s.hi)}; }
};

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) {
  KernelAtBits b;
  b.run = for_bits(b_bits, [](auto bits) { return &run_stream<Udot, decltype(bits)::value, 4>; });
  return b;
}

}  // namespace ulp::stream_dotprod
