// Places in one block of memory for buffers, each of which is in use from one step to another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ulp {

struct Block {
  int64_t begin, end;
  int first_step, last_step;
};

// The lowest place that is free for all of the steps; it is taken. taken: by ascending begin.
inline Block place(std::vector<Block>& taken, int64_t bytes, int first_step, int last_step) {
  int64_t at = 0;
  for (const Block& b : taken) {
    if (b.first_step > last_step || first_step > b.last_step) continue;
    if (b.begin - at >= bytes) break;
    at = std::max(at, b.end);
  }
  const Block placed{at, at + bytes, first_step, last_step};
  taken.insert(std::upper_bound(taken.begin(), taken.end(), placed, [](const Block& a, const Block& b) { return a.begin < b.begin; }),
               placed);
  return placed;
}

}  // namespace ulp
