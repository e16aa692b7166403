// How large the weights at hand are, for the choice of kernels.
#pragma once

namespace ulp {

// How often weights of 7 and 8 bits are too large for what 16-bit lanes add of their products: shares of the lanes, zeros at other widths.
// Derived from the weights; only the choice of kernels depends on it (gemm/costs.cpp).
struct LaneExcess {
  // At 8 bits: |w + w'| > 128, for the weights at k and k + 1 of a column, k even.
  double one_step = 0;
  // The positive weights at k, k + 1, k + 4 and k + 5 sum to more than 128 at 7 bits, 258 at 8, or the negative ones to less than minus
  // that.
  double two_steps = 0;
};

}  // namespace ulp
