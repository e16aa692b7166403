// Rows in parts for threads, where there are so many elements that this pays.
#pragma once

#include <cstdint>

#include "range.h"
#include "threads.h"

namespace ulp {

// body(rows) for all rows; it must not depend on how they are cut.
template <class Body>
void for_rows_of(int64_t rows, int64_t elements, const Body& body) {
  constexpr int64_t kParallelElements = int64_t{1} << 15;
  const int64_t threads = rows * elements < kParallelElements ? 1 : num_threads();
  const int64_t parts = threads > 1 ? (rows < 2 * threads ? rows : 2 * threads) : 1;
  struct Work {
    const Body& body;
    int64_t rows, parts;
  } work{body, rows, parts};
  const auto task = [](void* context, int64_t i) {
    const Work& w = *static_cast<const Work*>(context);
    w.body(part(w.rows, w.parts, i));
  };
  parallel_for(parts, task, &work);
}

}  // namespace ulp
