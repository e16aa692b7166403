// Where steps that multiply activations find their elements: by how far each index moves in an image, as (y, x, c), and as panels.
#pragma once

#include <array>
#include <cstring>

#include "../ops/output.h"
#include "row_work.h"

namespace ulp {

// int32 n x 3, of all tensors of a step one behind another.
inline std::array<int, 3> index_step(const Windows& steps, int index) {
  return {steps[3 * index], steps[3 * index + 1], steps[3 * index + 2]};
}

// No index leaves the image.
inline void check_places(const Checks& plan, const Windows& steps, const Tensor& t, int channel, int first,
                         const std::array<int, 3>& counts) {
  std::array<int64_t, 3> last{0, 0, channel};
  for (int i = 0; i < 3; ++i) {
    for (size_t side = 0; side < 3; ++side) {
      const int n = index_step(steps, first + i)[side];
      if (n < 0) plan.refuse(": steps must not be negative");
      last[side] += int64_t{n} * (counts[static_cast<size_t>(i)] - 1);
    }
    // Only the batch may have step 0: one matrix for all of it.
    if (i > 0 && counts[static_cast<size_t>(i)] > 1 && index_step(steps, first + i) == std::array<int, 3>{}) plan.refuse(": a step is 0");
  }
  if (last[0] >= t.height || last[1] >= t.width || last[2] >= t.channels) plan.refuse(": its indices leave a tensor");
}

// Whether the indices reach every element of the target exactly once: sorted by stride, each stride is the number of elements that the
// indices of smaller stride reach.
inline bool covers(const Windows& steps, const Tensor& t, int first, const std::array<int, 3>& counts) {
  std::array<std::pair<int64_t, int64_t>, 3> strides;
  for (size_t i = 0; i < 3; ++i) {
    const auto s = index_step(steps, first + static_cast<int>(i));
    strides[i] = {(int64_t{s[0]} * t.width + s[1]) * t.channels + s[2], counts[i]};
  }
  std::sort(strides.begin(), strides.end());
  int64_t below = 1;
  for (const auto& [stride, count] : strides) {
    if (count == 1) continue;
    if (stride != below) return false;  // below is at most the elements of the tensor, for no index leaves it
    below *= count;
  }
  return below == t.elements();
}

// Where the elements of a slice lie in memory, in elements from its first.
struct Places {
  int64_t at[3];

  template <class T>
  Places(const Windows& steps, const ImageView<T>& view, int first) {
    for (int i = 0; i < 3; ++i) {
      const auto s = index_step(steps, first + i);
      at[i] = view.strides.offset(0, s[0], s[1]) + s[2];
    }
  }
};

// The depth x columns elements at `from` as panels of 16 columns: `value` makes floats of them.
template <class T, class Value>
void pack_panels(const T* from, int64_t by_k, int64_t by_n, int64_t depth, int64_t columns, float* panels, const Value& value) {
  for (int64_t n = 0; n < columns; n += kProductColumns, panels += depth * kProductColumns, from += kProductColumns * by_n) {
    const int64_t count = std::min<int64_t>(kProductColumns, columns - n);
    if (count < kProductColumns) std::memset(panels, 0, static_cast<size_t>(depth * kProductColumns) * sizeof(float));
    if (by_n == 1) {
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t j = 0; j < count; ++j) panels[k * kProductColumns + j] = value(from[k * by_k + j]);
      }
    } else {
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t k = 0; k < depth; ++k) panels[k * kProductColumns + j] = value(from[k * by_k + j * by_n]);
      }
    }
  }
}

// Rows of sums, times a scale, of a target that `steps` describes from `first` on: those of index m of a batch's matrix and `count` behind
// it.
struct RowsOfBatch {
  Slice target;
  const Windows* steps;
  int first;
  int64_t columns;
  float scale;
  bool in_units;  // the scale is in units of the target's
};

// False if a code was made of a NaN.
inline bool put_rows(const Context& c, const RowsOfBatch& o, int64_t image, int64_t in_batch, int64_t m, int64_t count, const float* sums,
                     int64_t row) {
  const Tensor& t = c.tensor(o.target.tensor);
  Target to = target_at(c, o.target, image, 0, 0);
  const ImageStrides strides = t.is_codes ? c.codes(o.target).strides : c.floats(o.target).strides;
  const auto of_batch = index_step(*o.steps, o.first), of_rows = index_step(*o.steps, o.first + 1);
  to.pixel = strides.offset(0, of_rows[0], of_rows[1]) + of_rows[2];
  const int64_t at = in_batch * (strides.offset(0, of_batch[0], of_batch[1]) + of_batch[2]) + m * to.pixel;
  if (to.codes) {
    to.codes += at;
  } else {
    to.floats += at;
  }
  if (o.in_units) to.inverse = 1.0f;
  RowWork w{};
  w.operands[0].floats = sums;
  w.operands[0].pixel = row;
  w.operands[0].scale = o.scale;
  w.operand_count = 1;
  w.rows = count;
  w.groups = 1;
  w.channels = o.columns;
  w.function = RowFunction::identity;
  w.targets = &to;
  const float divisor = t.scale;
  w.divisors = to.codes && !o.in_units ? &divisor : nullptr;
  w.target_count = 1;
  return c.row_ops.rows(w);
}

}  // namespace ulp
