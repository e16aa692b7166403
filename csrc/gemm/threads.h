// A small pool of threads.
//
// Why not OpenMP: libgomp hangs in a child forked after a parallel region, torch and scikit-learn bring their own copies of it whose teams
// then fight for the cores, and a wheel must carry yet another. What a GEMM needs is a hundred lines: one job at a time, tasks taken from
// an atomic counter so that a core slowed by a neighbour takes fewer of them. What a task itself hands out runs in its own thread, and a
// second Python thread that finds the pool busy runs its job alone; a forked child starts with a fresh pool. Tasks write disjoint parts of
// C and sum in a fixed order, so results do not depend on the number of threads.
#pragma once

#include <chrono>
#include <cstdint>

namespace ulp {

inline constexpr int kMaxThreads = 1024;

// Below this many multiply-accumulates (some 20 microseconds) waking a second thread costs more than it saves.
inline constexpr int64_t kParallelMacs = int64_t{1} << 21;

struct Interrupted {};

int num_threads();
void set_num_threads(int n);  // throws std::invalid_argument outside 1 .. kMaxThreads

// Whether to end early: called now and then between tasks, by the thread that called parallel_for. nullptr: never. It may call
// parallel_for.
using Interrupt = bool();
void set_interrupt(Interrupt* asked);

// Made when long work begins.
class InterruptChecks {
 public:
  // Throws Interrupted if the work is to end early. Asks 20 times per second at most, and costs a look at the clock otherwise.
  void check();

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Calls task(context, i) for i in [0, count), on up to num_threads() threads, the caller's among them. What a task throws is
// thrown here once all have ended.
void parallel_for(int64_t count, void (*task)(void* context, int64_t i), void* context);

}  // namespace ulp
