// Ops::lookup and Ops::lookup_pairs on AVX2: 16 entries of the table per byte shuffle. A shuffle gives 0 where bit 7 of an index is set,
// which a saturating addition sets for all codes that lie in another block of 16.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

// Indices of table entries, 32 at a time.
struct OneCode {
  const uint8_t* a;

  ULP_INLINE __m256i indices(int64_t i) const { return load(a + i); }
  ULP_INLINE int index(int64_t i) const { return a[i]; }
};

struct TwoCodes {
  const uint8_t* a;
  const uint8_t* b;
  int a_bits;
  __m128i shift;

  // No bit crosses a byte: both codes together fit into one.
  ULP_INLINE __m256i indices(int64_t i) const { return _mm256_or_si256(load(a + i), _mm256_sll_epi16(load(b + i), shift)); }
  ULP_INLINE int index(int64_t i) const { return a[i] | b[i] << a_bits; }
};

template <int blocks, class Codes>
ULP_INLINE void look_up(const Codes& codes, int64_t count, const uint8_t* table, uint8_t* out) {
  __m256i block[blocks];
  ULP_UNROLL for (int b = 0; b < blocks; ++b) {
    block[b] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * b)));
  }
  const __m256i beyond = _mm256_set1_epi8(0x70);
  int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const __m256i index = codes.indices(i);
    __m256i found = _mm256_shuffle_epi8(block[0], _mm256_adds_epu8(index, beyond));
    ULP_UNROLL for (int b = 1; b < blocks; ++b) {
      const __m256i of_block = _mm256_adds_epu8(_mm256_xor_si256(index, _mm256_set1_epi8(static_cast<char>(b << 4))), beyond);
      found = _mm256_or_si256(found, _mm256_shuffle_epi8(block[b], of_block));
    }
    store(out + i, found);
  }
  for (; i < count; ++i) out[i] = table[codes.index(i)];
}

template <class Codes>
void look_up(const Codes& codes, int64_t count, const uint8_t* table, int bits, uint8_t* out) {
  switch (bits) {
    case 8:
      return look_up<16>(codes, count, table, out);
    case 7:
      return look_up<8>(codes, count, table, out);
    case 6:
      return look_up<4>(codes, count, table, out);
    case 5:
      return look_up<2>(codes, count, table, out);
    default:
      return look_up<1>(codes, count, table, out);
  }
}

}  // namespace

void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out) { look_up(OneCode{a}, count, table, bits, out); }

void lookup_pairs(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int bits, uint8_t* out) {
  look_up(TwoCodes{a, b, a_bits, _mm_cvtsi32_si128(a_bits)}, count, table, bits, out);
}

}  // namespace ulp::ops_avx2
