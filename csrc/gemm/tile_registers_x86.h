// The Op of tile_multiply.h whose sums all stay in registers, for vectors of either width, with a Step:
//
//   kSpills, kAdds   as of the Op
//   add(sum, x, y)   products of a row's four k, in every lane, and a vector of the panel, added to a sum
//   widen(sum)       int32
#pragma once

#include "panel_codes.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

// rows x vecs: at least ten sums, because an addition takes up to five cycles and two start in each. Of the two sides of a step, the one
// with fewer vectors is held in registers and the other passes by.
template <class Step, int rows, int vecs>
struct RegisterTile {
  using Acc = Vec;
  static constexpr int kRows = rows;
  static constexpr int kVecs = vecs;
  static constexpr int kStepK = 4;
  static constexpr bool kSpills = Step::kSpills;
  static constexpr bool kAdds = Step::kAdds;

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
            ULP_UNROLL for (int r = 0; r < r_count; ++r) Step::add(acc[r][v], x[r], y);
          }
        } else {
          Vec y[v_count];
          ULP_UNROLL for (int v = 0; v < v_count; ++v) y[v] = load(b + v * kVecBytes);
          ULP_UNROLL for (int r = 0; r < r_count; ++r) {
            const Vec x = broadcast4(a[r] + at);
            ULP_UNROLL for (int v = 0; v < v_count; ++v) Step::add(acc[r][v], x, y[v]);
          }
        }
      }
    }
  }

  static ULP_INLINE Vec widen(Vec acc) { return Step::widen(acc); }
};

}  // namespace
}  // namespace ulp
