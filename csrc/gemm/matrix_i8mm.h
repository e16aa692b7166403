// ARM's 8-bit matrix multiply, 2 rows x 2 columns x 8 k per instruction: what mmla and rowpair share. For kernel files built with i8mm
// only.
//
//   A: bytes, read from their rows 16 k at a time; two rows make one operand, | row 0: k0 .. k7 | row 1: k0 .. k7 |.
//   Panel: two columns make the other,  | step 0: unit 0: columns 0 1, 2 3, 4 5, 6 7 | unit 1 .. | step 1: ...   in steps of 8 k.
#pragma once

#include "multiply_neon.h"

namespace ulp {
namespace {

constexpr int kUnitPairs = kUnitCols / 2;
constexpr int kStepK = 8;

using Sums = uint32x4_t;  // row 0: columns 0, 1; row 1: columns 0, 1

// Panels of code - centre.
template <int bits, int centre>
void expand_pairs(const BitpackedSlice& s, uint8_t* panel) {
  const uint8x16_t c = vdupq_n_u8(centre);
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; j += 2) {
        const Vec k0 = halves(v[j], [c](uint8x16_t x) { return vsubq_u8(x, c); });
        const Vec k4 = halves(v[j + 1], [c](uint8x16_t x) { return vsubq_u8(x, c); });
        const auto pairs = [](uint8x16_t x, uint8x16_t y) {
          const uint32x4_t first = vreinterpretq_u32_u8(x), second = vreinterpretq_u32_u8(y);
          return Vec{vreinterpretq_u8_u32(vzip1q_u32(first, second)), vreinterpretq_u8_u32(vzip2q_u32(first, second))};
        };
        uint8_t* to = panel + ((kb * 4 + j / 2) * s.units + u) * 2 * kVector;
        store(to, pairs(k0.lo, k4.lo));
        store(to + kVector, pairs(k0.hi, k4.hi));
      }
    }
  }
}

// acc += one step; x: a pair of rows each.
template <class M, int pairs, int units>
ULP_INLINE void step(const uint8x16_t (&x)[pairs], const uint8_t* b, Sums (&acc)[pairs][units][kUnitPairs]) {
  ULP_UNROLL for (int u = 0; u < units; ++u) {
    ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) {
      const uint8x16_t y = vld1q_u8(b + (u * kUnitPairs + j) * 16);
      ULP_UNROLL for (int p = 0; p < pairs; ++p) M::multiply_add(acc[p][u][j], x[p], y);
    }
  }
}

// acc += the steps of a piece; b moves on, by `stride` per step. `a`: the rows' starts, two per pair.
template <class M, int pairs, int units>
ULP_INLINE void multiply(const uint8_t* const (&a)[2 * pairs], const Piece& piece, const uint8_t*& b, int64_t stride,
                         Sums (&acc)[pairs][units][kUnitPairs]) {
  int64_t at = piece.a;
  int64_t left = piece.steps;
  uint8x16_t x[pairs];
  for (; left >= 2; left -= 2, at += 2 * kStepK, b += 2 * stride) {
    uint8x16_t second[pairs];
    ULP_UNROLL for (int p = 0; p < pairs; ++p) {
      const uint64x2_t row0 = vreinterpretq_u64_u8(vld1q_u8(a[2 * p] + at));
      const uint64x2_t row1 = vreinterpretq_u64_u8(vld1q_u8(a[2 * p + 1] + at));
      x[p] = vreinterpretq_u8_u64(vzip1q_u64(row0, row1));
      second[p] = vreinterpretq_u8_u64(vzip2q_u64(row0, row1));
    }
    step<M>(x, b, acc);
    step<M>(second, b + stride, acc);
  }
  if (left > 0) {
    ULP_UNROLL for (int p = 0; p < pairs; ++p) x[p] = vcombine_u8(vld1_u8(a[2 * p] + at), vld1_u8(a[2 * p + 1] + at));
    step<M>(x, b, acc);
    b += stride;
  }
}

template <int pairs, int units>
ULP_INLINE void clear(Sums (&acc)[pairs][units][kUnitPairs]) {
  ULP_UNROLL for (int p = 0; p < pairs; ++p) {
    ULP_UNROLL for (int u = 0; u < units; ++u) { ULP_UNROLL for (int j = 0; j < kUnitPairs; ++j) acc[p][u][j] = vdupq_n_u32(0); }
  }
}

// 8 columns of the row 0 or 1 of a pair.
template <int row>
ULP_INLINE Vec row_sums(const Sums (&acc)[kUnitPairs]) {
  const auto half = [&acc](int j) {
    const uint64x2_t x = vreinterpretq_u64_u32(acc[j]), y = vreinterpretq_u64_u32(acc[j + 1]);
    return vreinterpretq_u8_u64(row == 0 ? vzip1q_u64(x, y) : vzip2q_u64(x, y));
  };
  return {half(0), half(2)};
}

}  // namespace
}  // namespace ulp
