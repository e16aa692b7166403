// A set of channels. Its size grows with how it was put together, not with the channels, of which a tensor may have millions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../gemm/range.h"

namespace ulp {

// Room for `more` elements; grows by factors, so that any number of calls copy each element a few times only.
template <class T>
void make_room(std::vector<T>& v, size_t more) {
  if (v.capacity() - v.size() < more) v.reserve(std::max(2 * v.capacity(), v.size() + more));
}

class ChannelSet {
 public:
  // The first channel of r that is in the set, or r.end.
  int64_t first_inside(Range r) const {
    const auto next = behind(r.begin);
    return next == ranges_.end() ? r.end : std::clamp(next->begin, r.begin, r.end);
  }

  // The first channel of r that is not in the set, or r.end.
  int64_t first_outside(Range r) const {
    const auto next = behind(r.begin);
    if (next == ranges_.end() || next->begin > r.begin) return r.begin;
    return std::min(next->end, r.end);
  }

  // So that `count` calls of add cannot fail.
  void make_room(size_t count) { ulp::make_room(ranges_, count); }

  // Precondition: none of r is in the set, and r is not empty.
  void add(Range r) {
    auto next = ranges_.begin() + (behind(r.begin) - ranges_.cbegin());
    const bool joins_next = next != ranges_.end() && next->begin == r.end;
    const bool joins_previous = next != ranges_.begin() && (next - 1)->end == r.begin;
    if (joins_next && joins_previous) {
      (next - 1)->end = next->end;
      ranges_.erase(next);
    } else if (joins_next) {
      next->begin = r.begin;
    } else if (joins_previous) {
      (next - 1)->end = r.end;
    } else {
      ranges_.insert(next, r);
    }
  }

 private:
  // The first range that ends behind the channel.
  std::vector<Range>::const_iterator behind(int64_t channel) const {
    return std::partition_point(ranges_.begin(), ranges_.end(), [channel](const Range& r) { return r.end <= channel; });
  }

  std::vector<Range> ranges_;  // ascending; between two of them there is a channel
};

}  // namespace ulp
