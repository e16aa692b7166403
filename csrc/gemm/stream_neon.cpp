// stream on NEON: the long multiply, tile 2 x 32, every pair (tile_stream.h).
//
// KernelAtBits. umlal gathers `local` products of at most m = (2^a - 1)(2^b - 1) in a u16 lane, then uadalp joins two lanes in u32: local =
// min(8, floor(65535 / m)), a power of two: 8 steps up to W5A8, 4 for W6A8, 2 for W7A8, 1 for W8A8. u32 wraps modulo 2^32, as the driver
// expects.
#include "bitpacked_neon.h"
#include "tile_stream.h"

namespace ulp::stream_neon {
namespace {

constexpr int spill_every(int a_bits, int b_bits) {
  const int steps = accumulation_length(65535, 1, max_product(a_bits, 0, b_bits, 0));
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}
static_assert(spill_every(8, 5) == 8 && spill_every(8, 6) == 4 && spill_every(8, 7) == 2 && spill_every(8, 8) == 1, "u16 sums");

template <int local>
struct Umlal {
  template <int rows>
  static constexpr int kVecs = rows == 1 ? 2 : 1;
  using Operand = uint8x16_t;

  struct Lanes {
    uint16x8_t narrow[4];  // two columns each
    uint32x4_t wide[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE uint8x16_t operand(const uint8_t* a) {
    return broadcast4(a + 4 * j);
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, uint8x16_t x, Vec codes) {
    if constexpr (j % local == 0) {
      s.narrow[0] = vmull_u8(vget_low_u8(codes.lo), vget_low_u8(x));
      s.narrow[1] = vmull_high_u8(codes.lo, x);
      s.narrow[2] = vmull_u8(vget_low_u8(codes.hi), vget_low_u8(x));
      s.narrow[3] = vmull_high_u8(codes.hi, x);
    } else {
      s.narrow[0] = vmlal_u8(s.narrow[0], vget_low_u8(codes.lo), vget_low_u8(x));
      s.narrow[1] = vmlal_high_u8(s.narrow[1], codes.lo, x);
      s.narrow[2] = vmlal_u8(s.narrow[2], vget_low_u8(codes.hi), vget_low_u8(x));
      s.narrow[3] = vmlal_high_u8(s.narrow[3], codes.hi, x);
    }
    if constexpr (j % local == local - 1) {
      ULP_UNROLL for (int i = 0; i < 4; ++i) s.wide[i] = vpadalq_u16(s.wide[i], s.narrow[i]);
    }
  }

  static ULP_INLINE Vec columns(const Lanes& s) {
    return {vreinterpretq_u8_u32(vpaddq_u32(s.wide[0], s.wide[1])), vreinterpretq_u8_u32(vpaddq_u32(s.wide[2], s.wide[3]))};
  }
};

template <int bits>
void (*run_of_steps(int local))(const Tile&) {
  switch (local) {
    case 8:
      return run_stream<Umlal<8>, bits, 2>;
    case 4:
      return run_stream<Umlal<4>, bits, 2>;
    case 2:
      return run_stream<Umlal<2>, bits, 2>;
    default:
      return run_stream<Umlal<1>, bits, 2>;
  }
}

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.run = for_bits(b_bits, [=](auto bits) { return run_of_steps<decltype(bits)::value>(spill_every(a_bits, b_bits)); });
  return b;
}

}  // namespace ulp::stream_neon
