// What loops over panels, rows and tasks share: parts of a range, and a thread's scratch memory.
#pragma once

#include <algorithm>

#include "../pack/packed_matrix.h"

namespace ulp {

// Memory that a thread keeps between calls; grows, never shrinks.
class Scratch {
 public:
  // Lays the given sizes out behind one another, each on its own cache line.
  template <size_t count>
  void reserve(const int64_t (&sizes)[count], uint8_t* (&pointers)[count]) {
    int64_t total = 0;
    for (int64_t s : sizes) total += round_up(s, 64);
    if (static_cast<int64_t>(bytes_.size()) < total) bytes_ = AlignedBytes(static_cast<size_t>(total));
    uint8_t* at = bytes_.data();
    for (size_t i = 0; i < count; ++i) {
      pointers[i] = at;
      at += round_up(sizes[i], 64);
    }
  }

 private:
  AlignedBytes bytes_;
};

// Part i of `parts` nearly equal parts of `count`.
struct Range {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

inline Range part(int64_t count, int64_t parts, int64_t i) { return {count * i / parts, count * (i + 1) / parts}; }

// The same in whole groups; the last one may be short.
inline Range part_in_groups(int64_t count, int64_t group, int64_t parts, int64_t i) {
  const Range r = part(ceil_div(count, group), parts, i);
  return {std::min(r.begin * group, count), std::min(r.end * group, count)};
}

}  // namespace ulp
