#include "grouped_floats.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "../gemm/row_parts.h"
#include "../gemm/scratch.h"

namespace ulp {
namespace {

constexpr int kCentre = 128;

// Codes a + 128 of some values, and their scale.
bool quantize(const float* x, int64_t count, const RowOps& ops, uint8_t* codes, float* scale) {
  float low, high;
  ops.range(x, count, &low, &high);
  *scale = std::max(std::max(-low, high) / 127.0f, std::numeric_limits<float>::min());
  Target to{};
  to.codes = codes;
  to.zero = kCentre;
  to.max_code = 255;
  return ops.quantize(x, count, to, *scale, 0.0f);
}

}  // namespace

bool grouped_floats(const GroupedFloats& p, const RowOps& ops) {
  const GroupedLayout& layout = p.b->layout;
  const int64_t group = p.per_group ? layout.group : layout.k;
  const int64_t scales_per_row = ceil_div(layout.k, group);
  thread_local Scratch scratch;
  uint8_t* codes;
  float* scales;
  scratch.lay_out(scratch_array(codes, p.rows * layout.k + 64), scratch_array(scales, p.rows * scales_per_row));
  std::atomic<bool> finite{true};
  for_rows_of(p.rows, layout.k, [&](Range rows) {
    for (int64_t m = rows.begin; m < rows.end; ++m) {
      for (int64_t k = 0, g = 0; k < layout.k; k += group, ++g) {
        const int64_t count = std::min(group, layout.k - k);
        if (!quantize(p.x + m * p.x_stride + k, count, ops, codes + m * layout.k + k, scales + m * scales_per_row + g)) finite.store(false);
      }
    }
  });
  if (!finite.load()) return false;
  GroupedProblem product;
  product.b = p.b;
  product.a = codes;
  product.rows = p.rows;
  product.a_stride = layout.k;
  product.centre = kCentre;
  product.a_scales = scales;
  product.a_scale_row = scales_per_row;
  product.a_scale_group = p.per_group ? 1 : 0;
  product.bias = p.bias;
  product.out = p.out;
  product.out_stride = p.out_stride;
  grouped(product);
  return true;
}

}  // namespace ulp
