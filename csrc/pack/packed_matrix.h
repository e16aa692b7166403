// PackedMatrix: weights in the bitpacked layout, with the column sums that zero points and signs need.
#pragma once

#include <vector>

#include "aligned_bytes.h"
#include "bits.h"
#include "lane_excess.h"
#include "layout.h"

namespace ulp {

struct PackedMatrix {
  BitpackedLayout layout;
  Encoding encoding{1, false};
  AlignedBytes data;
  LaneExcess excess;
  std::vector<uint32_t> code_sums;  // sum over k of the codes modulo 2^32, one per column

  // Sum over k of the values of a column, modulo 2^32.
  int32_t value_sum(size_t column) const {
    return static_cast<int32_t>(static_cast<uint32_t>(encoding.slope()) * code_sums[column] +
                                static_cast<uint32_t>(encoding.offset()) * static_cast<uint32_t>(layout.k));
  }
};

}  // namespace ulp
