// What steps are timed by.
#pragma once

#include <time.h>

#include <chrono>
#include <cstdint>

namespace ulp {

// Of a single thread its CPU time, which whatever else the machine does leaves alone; of several the elapsed time.
inline int64_t clock_ns([[maybe_unused]] bool one_thread) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  if (one_thread && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) return int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
#endif
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace ulp
