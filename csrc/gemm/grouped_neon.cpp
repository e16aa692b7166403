// grouped on NEON: the long multiply, tile 2 x 32 (tile_grouped.h, grouped_arm.h).
//
// smlal gathers `local` products of at most m = 128 (2^b - 1), or 128 * 128, in an s16 lane, then sadalp joins two lanes in int32: 8 steps
// up to 5 bits, 4 and 2 for 6 and 7, 1 for 8 bits and for tables.
#include "grouped_arm.h"

namespace ulp::grouped_neon {
namespace {

constexpr int spill_every(int bits) {
  const int steps = accumulation_length(32767, 1, 128 * (bits == 8 || bits == kTableBytes ? 128 : (1 << bits) - 1));
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}
static_assert(spill_every(5) == 8 && spill_every(6) == 4 && spill_every(7) == 2 && spill_every(8) == 1, "s16 sums");

template <int bits>
struct Smlal {
  static constexpr int local = spill_every(bits);
  template <int rows>
  static constexpr int kVecs = rows == 1 ? 2 : 1;
  using Operand = int8x16_t;

  struct Lanes {
    int16x8_t narrow[4];  // two columns each
    int32x4_t wide[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE int8x16_t operand(const uint8_t* a) {
    return vreinterpretq_s8_u8(broadcast4(a + 4 * j));
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, int8x16_t x, Vec codes) {
    const int8x16_t lo = as_signed<bits>(codes.lo), hi = as_signed<bits>(codes.hi);
    if constexpr (j % local == 0) {
      s.narrow[0] = vmull_s8(vget_low_s8(lo), vget_low_s8(x));
      s.narrow[1] = vmull_high_s8(lo, x);
      s.narrow[2] = vmull_s8(vget_low_s8(hi), vget_low_s8(x));
      s.narrow[3] = vmull_high_s8(hi, x);
    } else {
      s.narrow[0] = vmlal_s8(s.narrow[0], vget_low_s8(lo), vget_low_s8(x));
      s.narrow[1] = vmlal_high_s8(s.narrow[1], lo, x);
      s.narrow[2] = vmlal_s8(s.narrow[2], vget_low_s8(hi), vget_low_s8(x));
      s.narrow[3] = vmlal_high_s8(s.narrow[3], hi, x);
    }
    if constexpr (j % local == local - 1) {
      ULP_UNROLL for (int i = 0; i < 4; ++i) s.wide[i] = vpadalq_s16(s.wide[i], s.narrow[i]);
    }
  }

  static ULP_INLINE Vec columns(const Lanes& s) { return as_vec(vpaddq_s32(s.wide[0], s.wide[1]), vpaddq_s32(s.wide[2], s.wide[3])); }
};

}  // namespace

int byte_bias(int bits, int planes) { return signed_bias(bits, planes); }
auto bind(int bits, int planes) -> void (*)(const GroupTile&) { return bind_grouped<Smlal, 2>(bits, planes); }

}  // namespace ulp::grouped_neon
