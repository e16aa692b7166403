// bitserial on AVX2, tile 2 x 32 (tile_bitserial.h). The population count is two vpshufb into a table of nibbles.
//
// Ceiling on Zen 3: 8 vector operations for 256 bit-products, some 100 per cycle, divided by a * b.
#include "bitpacked_avx2.h"

namespace ulp {
namespace {

inline Vec zero() { return _mm256_setzero_si256(); }

uint32_t plane_word(const uint8_t* p, int plane) {
  const Vec codes = load(p);
  const __m256i bits = _mm256_and_si256(_mm256_srl_epi16(codes, _mm_cvtsi32_si128(plane)), _mm256_set1_epi8(1));
  const __m256i placed = _mm256_sllv_epi32(bits, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m128i word = _mm_or_si128(_mm256_castsi256_si128(placed), _mm256_extracti128_si256(placed, 1));
  word = _mm_or_si128(word, _mm_unpackhi_epi64(word, word));
  word = _mm_or_si128(word, _mm_srli_epi64(word, 32));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(word));
}

ULP_INLINE __m256i count_bits(__m256i x) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, field<0>(x, 15)), _mm256_shuffle_epi8(counts, field<4>(x, 15)));
}

struct Count {
  static constexpr bool kWeighted = false;

  // A byte grows by at most 8 per block.
  static constexpr int kBlocksPerSpill = 31;
  static_assert(kBlocksPerSpill * 8 <= 255, "u8 counts");

  static ULP_INLINE Vec add(Vec acc, Vec y, const uint8_t* p) {
    return _mm256_add_epi8(acc, count_bits(_mm256_and_si256(y, broadcast4(p))));
  }

  static ULP_INLINE Vec columns(Vec acc) { return _mm256_madd_epi16(_mm256_maddubs_epi16(acc, _mm256_set1_epi8(1)), _mm256_set1_epi16(1)); }
};

}  // namespace
}  // namespace ulp

#include "tile_bitserial.h"

namespace ulp::bitserial_avx2 {

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) { return bind_planes<Count, 2, 1>(a_bits, b_bits); }

}  // namespace ulp::bitserial_avx2
