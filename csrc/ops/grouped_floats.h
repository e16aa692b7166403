// Products of floats with weights in groups (gemm/grouped.h): each row, or each group of a row, becomes signed 8-bit codes of its own
// scale:
//
//     scale = max |x| / 127, rounded to float32, at least the smallest normal number        a = rint(x / scale), -127 .. 127
#pragma once

#include "../gemm/grouped.h"
#include "rows.h"

namespace ulp {

struct GroupedFloats {
  const GroupedMatrix* b = nullptr;
  const float* x = nullptr;  // rows x K, K side by side
  int64_t rows = 0;
  int64_t x_stride = 0;
  bool per_group = false;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// False if a value is not finite; the result is then unspecified.
bool grouped_floats(const GroupedFloats& problem, const RowOps& ops);

}  // namespace ulp
