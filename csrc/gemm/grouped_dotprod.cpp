// grouped on ARM's dot product: sdot by lane, tile 4 x 32 (tile_grouped.h, grouped_arm.h). Four products go to int32, which the sum of a
// group fits.
#include "grouped_arm.h"

namespace ulp::grouped_dotprod {
namespace {

template <int bits>
struct Sdot {
  template <int rows>
  static constexpr int kVecs = rows == 1 ? 4 : 2;
  using Operand = int8x16_t;

  struct Lanes {
    int32x4_t lo = vdupq_n_s32(0);
    int32x4_t hi = vdupq_n_s32(0);
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE int8x16_t operand(const uint8_t* a) {
    return vreinterpretq_s8_u8(vld1q_u8(a + 16 * (j / 4)));
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, int8x16_t x, Vec codes) {
    s.lo = vdotq_laneq_s32(s.lo, as_signed<bits>(codes.lo), x, j % 4);
    s.hi = vdotq_laneq_s32(s.hi, as_signed<bits>(codes.hi), x, j % 4);
  }

  static ULP_INLINE Vec columns(const Lanes& s) { return as_vec(s.lo, s.hi); }
};

}  // namespace

int byte_bias(int bits, int planes) { return signed_bias(bits, planes); }
auto bind(int bits, int planes) -> void (*)(const GroupTile&) { return bind_grouped<Sdot, 4>(bits, planes); }

}  // namespace ulp::grouped_dotprod
