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
  static constexpr int64_t kLongTile = 256;  // steps

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

  // One line every few steps: fetched all at once, C would occupy the buffers that the panel passes through on its way from the
  // second-level cache. A short tile, whose panel is in the first-level one, needs C too early for that.
  template <int r_count, int v_count>
  static ULP_INLINE void add_steps(const Tile& t, const uint8_t* const (&a)[r_count], const uint8_t* b, int64_t stride, int64_t left,
                                   const int32_t* c, Vec (&acc)[r_count][v_count]) {
    constexpr int64_t kLineSteps = 4;
    Piece piece{0, kLineSteps};
    if (left >= kLongTile) {
      const int64_t ldc = t.ldc;
      for (int r = 0; r < r_count; ++r, c += ldc) {
        ULP_UNROLL for (int v = 0; v < v_count; ++v, piece.a += 4 * kLineSteps) {
          _mm_prefetch(reinterpret_cast<const char*>(c + v * kVecCols), _MM_HINT_T0);
          add(a, b, stride, &piece, 1, acc);
        }
      }
      left -= r_count * v_count * kLineSteps;
    } else {
      prefetch_c<r_count, v_count * kVecUnits>(t, c);
    }
    const uint8_t* ahead = t.ahead;
    for (int64_t lines = t.ahead_lines < left / kLineSteps ? t.ahead_lines : left / kLineSteps; lines > 0;
         --lines, ahead += 64, piece.a += 4 * kLineSteps) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
      add(a, b, stride, &piece, 1, acc);
      left -= kLineSteps;
    }
    piece.steps = left;
    add(a, b, stride, &piece, 1, acc);
  }

  // The pieces of a Gather, while `lines` from `ahead` on are fetched: those that were are taken off.
  template <int r_count, int v_count>
  static ULP_INLINE void add_while_fetching(const uint8_t*& ahead, int64_t& lines, const uint8_t* const (&a)[r_count], const uint8_t*& b,
                                            int64_t stride, const Piece* pieces, int64_t count, Vec (&acc)[r_count][v_count]) {
    constexpr int64_t kLineSteps = 4;
    for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
      Piece some{piece->a, kLineSteps};
      int64_t left = piece->steps;
      for (; lines > 0 && left >= kLineSteps; --lines, ahead += 64, some.a += 4 * kLineSteps, left -= kLineSteps) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
        add(a, b, stride, &some, 1, acc);
      }
      some.steps = left;
      add(a, b, stride, &some, 1, acc);
    }
  }

  template <int r_count, int v_count>
  static ULP_INLINE void multiply_steps(const Tile& t, const uint8_t* const (&a)[r_count], const uint8_t* b, int64_t stride, int64_t steps,
                                        const int32_t* c, Vec (&acc)[r_count][v_count]) {
    ULP_UNROLL for (int r = 0; r < r_count; ++r) { ULP_UNROLL for (int v = 0; v < v_count; ++v) acc[r][v] = zero(); }
    add_steps(t, a, b, stride, steps, c, acc);
  }

  static ULP_INLINE Vec widen(Vec acc) { return Step::widen(acc); }
};

}  // namespace
}  // namespace ulp
