// The Op of stream on AVX-512 VNNI: vpdpbusd of the weights' unsigned bytes and signed bytes of A (tile_stream.h). For kernel files built
// for AVX-512 VNNI only.
#pragma once

#include "bitpacked_avx512.h"
#include "tile_stream.h"

namespace ulp {
namespace {

struct Dot {
  template <int>
  static constexpr int kVecs = 2;
  using Operand = Vec;

  // One sum takes five cycles and two start in each: few rows need several sums per column, which take turns.
  template <int rows>
  struct Sums {
    static constexpr int kTurns = rows == 1 ? 4 : rows <= 4 ? 2 : 1;
    Vec turn[kTurns];
    Sums() { ULP_UNROLL for (int i = 0; i < kTurns; ++i) turn[i] = zero(); }
  };

  template <int j>
  static ULP_INLINE Vec operand(const uint8_t* a) {
    return broadcast4(a + 4 * j);
  }

  template <int j, int rows>
  static ULP_INLINE void step(Sums<rows>& sums, Vec x, Vec codes) {
    Vec& sum = sums.turn[j % Sums<rows>::kTurns];
    sum = _mm512_dpbusd_epi32(sum, codes, x);
  }

  template <int rows>
  static ULP_INLINE Vec columns(const Sums<rows>& sums) {
    Vec all = sums.turn[0];
    ULP_UNROLL for (int i = 1; i < Sums<rows>::kTurns; ++i) all = add_sums(all, sums.turn[i]);
    return all;
  }
};

}  // namespace
}  // namespace ulp
