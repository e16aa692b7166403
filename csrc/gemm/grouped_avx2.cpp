// grouped on AVX2: vpmaddubsw, tile 4 x 32 (tile_grouped.h, grouped_x86.h).
//
// A step adds two products of at most m = 128 (2^b - 1) to an s16 lane, which holds floor(32767 / (2 m)) steps: 8 up to 4 bits, 4, 2, 1 for
// 5 .. 7; then lanes are widened to int32. 8 bits, and what a table holds, are multiplied as halves of 4 bits, 8 steps each.
#include "grouped_x86.h"

namespace ulp::grouped_avx2 {
namespace {

constexpr int kSteps = 8;  // of a K-block
constexpr bool in_halves(int bits) { return bits == 8 || bits == kTableBytes; }
constexpr int spill_every(int bits) {
  const int steps = accumulation_length(32767, 2, 128 * (in_halves(bits) ? 15 : (1 << bits) - 1));
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}
static_assert(spill_every(4) == 8 && spill_every(5) == 4 && spill_every(6) == 2 && spill_every(7) == 1 && spill_every(8) == 8, "s16 sums");

ULP_INLINE __m256i widen(__m256i acc, int weight) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(static_cast<int16_t>(weight))); }

template <int bits>
struct Maddubs {
  template <int rows>
  static constexpr int kVecs = rows >= 4   ? 1
                               : rows >= 2 ? 2
                                           : 4;
  using Operand = __m256i;

  struct Lanes {
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
    __m256i wide = _mm256_setzero_si256();
  };
  template <int>
  using Sums = Lanes;

  template <int j>
  static ULP_INLINE __m256i operand(const uint8_t* a) {
    return broadcast4(a + 4 * j);
  }

  template <int j>
  static ULP_INLINE void step(Lanes& s, __m256i x, Vec codes) {
    if constexpr (in_halves(bits)) {
      s.low = _mm256_add_epi16(s.low, _mm256_maddubs_epi16(field<0>(codes, 15), x));
      s.high = _mm256_add_epi16(s.high, _mm256_maddubs_epi16(field<4>(codes, 15), x));
    } else {
      s.low = _mm256_add_epi16(s.low, _mm256_maddubs_epi16(codes, x));
    }
    if constexpr ((j + 1) % spill_every(bits) == 0) {
      s.wide = _mm256_add_epi32(s.wide, widen(s.low, 1));
      s.low = _mm256_setzero_si256();
      if constexpr (in_halves(bits)) {
        s.wide = _mm256_add_epi32(s.wide, widen(s.high, 16));
        s.high = _mm256_setzero_si256();
      }
    }
  }

  static ULP_INLINE Vec columns(const Lanes& s) { return s.wide; }
};
static_assert(kSteps % spill_every(8) == 0, "nothing is left behind a K-block");

}  // namespace

int byte_bias(int, int planes) { return raised_bias(planes); }
auto bind(int bits, int planes) -> void (*)(const GroupTile&) { return bind_grouped<Maddubs, 4>(bits, planes); }

}  // namespace ulp::grouped_avx2
