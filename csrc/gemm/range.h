// Ranges, and nearly equal parts of them: how loops are cut into blocks, and work into tasks.
#pragma once

#include <algorithm>

#include "../pack/layout.h"

namespace ulp {

struct Range {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

// Part i of `parts` nearly equal parts of `count`.
inline Range part(int64_t count, int64_t parts, int64_t i) { return {count * i / parts, count * (i + 1) / parts}; }

// The same in whole groups; the last one may be short.
inline Range part_in_groups(int64_t count, int64_t group, int64_t parts, int64_t i) {
  const Range r = part(ceil_div(count, group), parts, i);
  return {std::min(r.begin * group, count), std::min(r.end * group, count)};
}

}  // namespace ulp
