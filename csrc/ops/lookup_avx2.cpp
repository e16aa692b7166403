// Ops::lookup on AVX2: 16 entries of the table per byte shuffle. A shuffle gives 0 where bit 7 of an index is set, which a saturating
// addition sets for all codes that lie in another block of 16.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

template <int blocks>
ULP_INLINE int64_t look_up(const uint8_t* a, int64_t count, const __m256i table[16], uint8_t* out) {
  const __m256i beyond = _mm256_set1_epi8(0x70);
  int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const __m256i codes = load(a + i);
    __m256i found = _mm256_shuffle_epi8(table[0], _mm256_adds_epu8(codes, beyond));
    ULP_UNROLL for (int b = 1; b < blocks; ++b) {
      const __m256i index = _mm256_adds_epu8(_mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(b << 4))), beyond);
      found = _mm256_or_si256(found, _mm256_shuffle_epi8(table[b], index));
    }
    store(out + i, found);
  }
  return i;
}

}  // namespace

void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out) {
  __m256i blocks[16];
  const int used = bits <= 4 ? 1 : 1 << (bits - 4);
  for (int b = 0; b < used; ++b) {
    blocks[b] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * b)));
  }
  int64_t done = 0;
  switch (used) {
    case 1:
      done = look_up<1>(a, count, blocks, out);
      break;
    case 2:
      done = look_up<2>(a, count, blocks, out);
      break;
    case 4:
      done = look_up<4>(a, count, blocks, out);
      break;
    case 8:
      done = look_up<8>(a, count, blocks, out);
      break;
    default:
      done = look_up<16>(a, count, blocks, out);
      break;
  }
  for (; done < count; ++done) out[done] = table[a[done]];
}

}  // namespace ulp::ops_avx2
