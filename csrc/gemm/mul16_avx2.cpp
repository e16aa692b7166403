// mul16 on AVX2: vpmaddwd, tile 3 x 32, exact for every pair; meant for W8A8, where vpmaddubsw would saturate.
//
//   A and panel: 16-bit elements in the order of k, so the panel has two vectors where mul8 has one: | k0 k1 | of eight columns, | k2 k3 |.
//   KernelAtBits: two products of at most 255 * 128 per step go to int32, whose wrap-around is the modulo 2^32 that the driver expects.
//   Ceiling: half of mul8's, 24 multiply-accumulates per cycle.
#include "tile_multiply_avx2.h"

namespace ulp::mul16_avx2 {
namespace {

template <int bits>
void expand16(const BitpackedSlice& s, uint8_t* panel) {
  const __m256i centre = _mm256_set1_epi16(1 << (bits - 1));
  // Bytes 0 and 1, or 2 and 3, of every four, each widened to 16 bits.
  const __m256i first =
      _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
  const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi16(2));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      __m256i v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        uint8_t* to = panel + ((kb * 16 + 2 * j) * s.units + u) * kVector;
        store(to, _mm256_sub_epi16(_mm256_shuffle_epi8(v[j], first), centre));
        store(to + s.units * kVector, _mm256_sub_epi16(_mm256_shuffle_epi8(v[j], second), centre));
      }
    }
  }
}

void widen_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = load(codes + k);
      store(out + 2 * k, _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)));
      store(out + 2 * k + kVector, _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)));
    }
  }
}

}  // namespace

bool supports(int, int) { return true; }

KernelAtBits bind(int, int b_bits) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = 1 << 30;  // nothing to spill
  b.max_kc = 512;
  b.a_bytes = 2 * kUnitK;
  b.step_k = Mul16::kStepK;
  b.any_start = true;
  b.panel_bytes = 2 * kUnitCodes;
  b.pack_a = widen_a;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand16<decltype(bits)::value>; });
  b.run = run<Op<Mul16>>;
  return b;
}

}  // namespace ulp::mul16_avx2
