// mul16 on AVX2, tile 3 x 32 (mul16_x86.h). Ceiling: half of mul8's, 24 multiply-accumulates per cycle.
#include "tile_multiply_avx2.h"

namespace ulp {
namespace {

ULP_INLINE Vec words(Vec codes, int half, int centre) {
  const __m256i first =
      _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
  const __m256i wanted = _mm256_add_epi8(first, _mm256_set1_epi16(static_cast<int16_t>(2 * half)));
  return _mm256_sub_epi16(_mm256_shuffle_epi8(codes, wanted), _mm256_set1_epi16(static_cast<int16_t>(centre)));
}

}  // namespace
}  // namespace ulp

#include "mul16_x86.h"

namespace ulp::mul16_avx2 {

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) { return bind_mul16<Op<Mul16>>(b_bits, 512); }

}  // namespace ulp::mul16_avx2
