// mul16 on x86: vpmaddwd, exact for every pair, for vectors of either width; meant for W8A8, where vpmaddubsw would saturate.
//
//   A and panel: 16-bit elements in the order of k, so the panel has two vectors where mul8 has one: | k0 k1 | of its columns, | k2 k3 |.
//   KernelAtBits: two products of at most 255 * 128 per step go to int32, whose wrap-around is the modulo 2^32 that the driver expects.
//
// An instruction set has defined, besides bitpacked_<isa>.h:
//   words(codes, half, centre)   bytes 2 half and 2 half + 1 of every four, as words, less the centre
#pragma once

#include "kernel.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

template <int bits>
void expand_words(const BitpackedSlice& s, uint8_t* panel) {
  constexpr int kCentre = 1 << (bits - 1);
  const int64_t stride = s.units * kVector, k_blocks = s.k_blocks;  // copies that no store can alias
  const int all = s.units;
  for (int first = 0; first < all; first += kPanelUnits) {
    const PanelUnits panel_units(s, first);
    const uint8_t* from = panel_units.at;
    uint8_t* to = panel + first * kVector;
    for (int64_t kb = 0; kb < k_blocks; ++kb, from += panel_units.step, to += 16 * stride) {
      for (int u = 0; u < panel_units.count; u += kVecUnits) {
        Vec v[8];
        decode<bits>(units_at(from, bits * kVector, u, panel_units.count), v);
        ULP_UNROLL for (int j = 0; j < 8; ++j) {
          uint8_t* pair = to + 2 * j * stride + u * kVector;
          store_units(pair, words(v[j], 0, kCentre), panel_units.count - u);
          store_units(pair + stride, words(v[j], 1, kCentre), panel_units.count - u);
        }
      }
    }
  }
}

void widen_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + k));
      __m256i* to = reinterpret_cast<__m256i*>(out + 2 * k);
      _mm256_storeu_si256(to, _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)));
      _mm256_storeu_si256(to + 1, _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)));
    }
  }
}

template <class Op>
KernelAtBits bind_mul16(int b_bits, int64_t max_kc) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = 1 << 30;  // nothing to spill
  b.max_kc = max_kc;
  b.a_bytes = 2 * kUnitK;
  b.step_k = 2;
  b.any_start = true;
  b.panel_bytes = 2 * kUnitCodes;
  b.pack_a = widen_a;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand_words<decltype(bits)::value>; });
  b.run = run<Op>;
  return b;
}

}  // namespace
}  // namespace ulp
