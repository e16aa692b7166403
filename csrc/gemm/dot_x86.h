// dot on x86: vpdpbusd, four products of u8 and s8 added to int32, for vectors of either width.
//
//   A: the codes themselves, u8, read straight from their rows: one broadcast gives four k of a row.
//   Panel: code - 2^(b-1), s8 (panel_codes.h).
//   KernelAtBits. Four products go to int32 without saturation (that is vpdpbusds), which wraps modulo 2^32 as the driver expects: every
//   pair is exact, W8A8 too, and nothing is spilled.
#pragma once

#include "panel_codes.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

// rows x vecs: at least ten sums, because one takes five cycles and two start in each. Of the two sides of a step, the one with fewer
// vectors is held in registers and the other passes by.
template <int rows, int vecs>
struct Dot {
  using Acc = Vec;
  static constexpr int kRows = rows;
  static constexpr int kVecs = vecs;
  static constexpr int kStepK = 4;
  static constexpr bool kSpills = false;
  static constexpr bool kAdds = true;

  template <int r_count, int v_count>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[r_count], const uint8_t*& b, int64_t stride, const Piece* pieces, int64_t count,
                                  Vec (&acc)[r_count][v_count]) {
    ULP_UNROLL for (int r = 0; r < r_count; ++r) { ULP_UNROLL for (int v = 0; v < v_count; ++v) acc[r][v] = zero(); }
    add(a, b, stride, pieces, count, acc);
  }

  template <int r_count, int v_count>
  static ULP_INLINE void add(const uint8_t* const (&a)[r_count], const uint8_t*& b, int64_t stride, const Piece* pieces, int64_t count,
                             Vec (&acc)[r_count][v_count]) {
    for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
      const int64_t end = piece->a + 4 * piece->steps;
      for (int64_t at = piece->a; at < end; at += 4, b += stride) {
        if constexpr (r_count < v_count) {
          Vec x[r_count];
          ULP_UNROLL for (int r = 0; r < r_count; ++r) x[r] = broadcast4(a[r] + at);
          ULP_UNROLL for (int v = 0; v < v_count; ++v) {
            const Vec y = load(b + v * kVecBytes);
            ULP_UNROLL for (int r = 0; r < r_count; ++r) dot_add(acc[r][v], x[r], y);
          }
        } else {
          Vec y[v_count];
          ULP_UNROLL for (int v = 0; v < v_count; ++v) y[v] = load(b + v * kVecBytes);
          ULP_UNROLL for (int r = 0; r < r_count; ++r) {
            const Vec x = broadcast4(a[r] + at);
            ULP_UNROLL for (int v = 0; v < v_count; ++v) dot_add(acc[r][v], x, y[v]);
          }
        }
      }
    }
  }

  static ULP_INLINE Vec widen(Vec acc) { return acc; }
};

template <class Op>
KernelAtBits bind_dot(int b_bits, int64_t max_kc) {
  KernelAtBits b;
  b.centre_b = middle(b_bits);
  b.spill_every = 1 << 30;  // nothing to spill
  b.max_kc = max_kc;
  b.step_k = Op::kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = expand_signed_codes(b_bits);
  b.run = run<Op>;
  return b;
}

}  // namespace
}  // namespace ulp
