// The Op of tile_multiply.h on the loop of multiply_avx2.h: for kernel files built with -mavx2 only.
#pragma once

#include "multiply_avx2.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

template <class M>
struct Op : M {
  using Acc = Vec;
  static constexpr int kRows = 3;
  static constexpr int kVecs = kPanelUnits;
  static constexpr bool kSpills = M::kStepK == 4;  // mul16 sums in int32
  static constexpr bool kAdds = false;

  template <int rows, int units>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, int64_t, const Piece* pieces, int64_t count,
                                  Vec (&acc)[rows][units]) {
    ulp::multiply<M>(a, b, pieces, count, acc);
  }
};

}  // namespace
}  // namespace ulp
