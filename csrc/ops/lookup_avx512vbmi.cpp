// Ops::lookup and Ops::lookup_pairs on AVX-512 VBMI: a permutation looks up 64 codes in 64 entries of the table, or in 128, of two vectors.
#include <immintrin.h>

#include "ops_parts.h"

namespace ulp::ops_avx512vbmi {
namespace {

struct OneCode {
  const uint8_t* a;

  __m512i indices(int64_t i, __mmask64 lanes) const { return _mm512_maskz_loadu_epi8(lanes, a + i); }
};

struct TwoCodes {
  const uint8_t* a;
  const uint8_t* b;
  __m128i shift;

  // No bit crosses a byte: both codes together fit into one.
  __m512i indices(int64_t i, __mmask64 lanes) const {
    return _mm512_or_si512(_mm512_maskz_loadu_epi8(lanes, a + i), _mm512_sll_epi16(_mm512_maskz_loadu_epi8(lanes, b + i), shift));
  }
};

// vectors: of 64 entries each.
template <int vectors, class Codes>
inline void look_up(const Codes& codes, int64_t count, const uint8_t* table, uint8_t* out) {
  __m512i entries[4];
  for (int v = 0; v < vectors; ++v) entries[v] = _mm512_loadu_si512(table + 64 * v);
  for (int64_t i = 0; i < count; i += 64) {
    const __mmask64 lanes = count - i < 64 ? (__mmask64{1} << (count - i)) - 1 : ~__mmask64{0};
    const __m512i index = codes.indices(i, lanes);
    __m512i found;
    if constexpr (vectors == 1) {
      found = _mm512_permutexvar_epi8(index, entries[0]);
    } else {
      found = _mm512_permutex2var_epi8(entries[0], index, entries[1]);
      if constexpr (vectors == 4) {
        found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), found, _mm512_permutex2var_epi8(entries[2], index, entries[3]));
      }
    }
    _mm512_mask_storeu_epi8(out + i, lanes, found);
  }
}

template <class Codes>
inline void look_up(const Codes& codes, int64_t count, const uint8_t* table, int bits, uint8_t* out) {
  if (bits <= 6) return look_up<1>(codes, count, table, out);
  bits == 7 ? look_up<2>(codes, count, table, out) : look_up<4>(codes, count, table, out);
}

}  // namespace

void lookup(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out) { look_up(OneCode{a}, count, table, bits, out); }

void lookup_pairs(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int bits, uint8_t* out) {
  look_up(TwoCodes{a, b, _mm_cvtsi32_si128(a_bits)}, count, table, bits, out);
}

}  // namespace ulp::ops_avx512vbmi
