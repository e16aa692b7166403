// mul16 on AVX-512, tile 6 x 64 (mul16_x86.h). For CPUs that have AVX-512 and not VNNI: Skylake-X. Ceiling: half of mul8's, 27
// multiply-accumulates per cycle on Sapphire Rapids.
#include "bitpacked_avx512.h"

namespace ulp {
namespace {

ULP_INLINE Vec words(Vec codes, int half, int centre) {
  const __m512i first = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  const __m512i wanted = _mm512_add_epi8(first, _mm512_set1_epi16(static_cast<int16_t>(2 * half)));
  return _mm512_sub_epi16(_mm512_shuffle_epi8(codes, wanted), _mm512_set1_epi16(static_cast<int16_t>(centre)));
}

}  // namespace
}  // namespace ulp

#include "mul16_x86.h"
#include "multiply_avx512.h"
#include "tile_registers_x86.h"

namespace ulp::mul16_avx512 {
namespace {

struct WordTile : RegisterTile<MultiplyStep<true>, 6, 4> {
  static constexpr int kStepK = 2;
};

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) { return bind_mul16<WordTile>(b_bits, 256); }

}  // namespace ulp::mul16_avx512
