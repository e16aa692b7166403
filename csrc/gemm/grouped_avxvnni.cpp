// grouped on AVX-VNNI: vpdpbusd, tile 4 x 32 (tile_grouped.h, grouped_x86.h). Four products go to int32, which the sum of a group fits.
#include "grouped_x86.h"

namespace ulp::grouped_avxvnni {
namespace {

template <int>
struct Dot {
  template <int rows>
  static constexpr int kVecs = rows >= 4 ? 2 : 4;
  using Operand = __m256i;

  struct Lanes {
    __m256i sum = _mm256_setzero_si256();
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE __m256i operand(const uint8_t* a) {
    return broadcast4(a + 4 * j);
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, __m256i x, Vec codes) {
#if defined(_MSC_VER) && !defined(__clang__)
    s.sum = _mm256_dpbusd_avx_epi32(s.sum, codes, x);
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s.sum) : "x"(codes), "x"(x));
#endif
  }

  static ULP_INLINE Vec columns(const Lanes& s) { return s.sum; }
};

}  // namespace

int byte_bias(int, int planes) { return raised_bias(planes); }
auto bind(int bits, int planes) -> void (*)(const GroupTile&) { return bind_grouped<Dot, 4>(bits, planes); }

}  // namespace ulp::grouped_avxvnni
