#include "gemm.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "cpu.h"
#include "matrix_rows.h"
#include "panel_loop.h"
#include "scratch.h"
#include "threads.h"

namespace ulp {
namespace {

// The rows of packed A that are kept in the second-level cache while all panels of B pass by.
int64_t a_block_bytes() { return second_level_bytes() * 3 / 8; }

// At least so many rows, or what a kernel does once per block for a panel's excess costs as much as it saves.
constexpr int64_t kExcessBlockRows = 512;

// The most multiply-accumulates of a task, where it has rows enough.
constexpr int64_t kTaskMacs = int64_t{1} << 33;

// One product: what its tasks share.
struct Job {
  const Problem& problem;
  const Sink& sink;
  PanelLoop loop;
  int64_t mc;                              // rows of a block of A
  int64_t row_parts = 1, panel_parts = 1;  // the grid of tasks

  Job(const Problem& p, const Kernel& kernel, const Sink& s) : problem(p), sink(s), loop(p, kernel) {
    const KernelAtBits& at = loop.kernel();
    const int64_t m = p.a.rows, n = p.b->layout.n, k = p.a.cols;
    const int64_t a_row_bytes = p.b->layout.k_blocks() * at.a_bytes;
    const int64_t threads = m * n * k < kParallelMacs ? 1 : num_threads();
    if (threads > 1) {
      // Splitting M repeats the expansion of B, splitting N the packing of A. Two tasks per thread even out a slow core.
      const int64_t wanted = 2 * threads;
      row_parts = std::clamp<int64_t>(m / 48, 1, wanted);
      panel_parts = std::clamp<int64_t>(ceil_div(wanted, row_parts), 1, loop.panels());
    }
    // Between tasks the caller may be interrupted: none takes longer than some tenths of a second.
    row_parts = std::clamp<int64_t>(ceil_div(m * n * k / panel_parts, kTaskMacs), row_parts, std::max<int64_t>(m / 48, row_parts));
    const int64_t task_rows = ceil_div(m, row_parts);
    const int64_t min_rows = at.find_excess ? kExcessBlockRows : 4 * kernel.mr;
    const int64_t fit = std::max<int64_t>(a_block_bytes() / std::max<int64_t>(a_row_bytes, 1), min_rows);
    mc = round_up(ceil_div(task_rows, ceil_div(task_rows, std::min(fit, task_rows))), at.row_group);
  }
};

void run_task(const Job& job, int64_t index) {
  const Range rows = part_in_groups(job.problem.a.rows, job.loop.kernel().row_group, job.row_parts, index / job.panel_parts);
  const Range panels = part(job.loop.panels(), job.panel_parts, index % job.panel_parts);
  thread_local Scratch scratch;
  MatrixRows a(job.problem.a, job.problem.a_encoding, job.loop, job.mc, scratch);
  for (int64_t m = rows.begin; m < rows.end; m += job.mc) {
    a.pack({m, std::min(m + job.mc, rows.end)});
    job.loop.run(a, panels, job.sink);
  }
}

// K = 0: every sum is empty.
void put_empty_sums(const Problem& p, const Sink& sink) {
  const int64_t n = p.b->layout.n;
  std::vector<int32_t> sums(static_cast<size_t>(n));
  for (int64_t m = 0; m < p.a.rows; ++m) {
    for (int64_t j = 0; j < n; ++j) sums[static_cast<size_t>(j)] = p.start ? p.start[j] : 0;
    sink.put({m, 1, 0, n, sums.data(), n});
  }
}

}  // namespace

void validate(const Problem& p) {
  const BitpackedLayout& b = p.b->layout;
  if (p.a.cols != b.k) {
    throw std::invalid_argument("a has " + std::to_string(p.a.cols) + " columns but b has " + std::to_string(b.k) +
                                " rows; a (..., M, K) needs b (K, N)");
  }
  const SumBound bound = p.sum_bound();
  if (p.a.cols > bound.max_k()) {
    throw std::invalid_argument("K = " + std::to_string(p.a.cols) + " could overflow int32: |a - a_zero| reaches " +
                                std::to_string(bound.a) + " and |b - b_zero| reaches " + std::to_string(bound.b) +
                                ", so K may be at most " + std::to_string(bound.max_k()) + "; split K and add the parts in int64");
  }
}

void validate_start(const Problem& p, const char* name) {
  const SumBound bound = p.sum_bound();
  const int64_t room = bound.room(p.a.cols);
  for (int64_t i = 0; i < p.b->layout.n; ++i) {
    if (std::abs(int64_t{p.start[i]}) <= room) continue;
    const std::string limit = std::to_string(room);
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(p.start[i]) + " at [" + std::to_string(i) +
                                "], and with sums of up to " + std::to_string(bound.sum(p.a.cols)) +
                                " could leave int32; at K = " + std::to_string(p.a.cols) + " it must lie in -" + limit + ".." + limit);
  }
}

void gemm(const Problem& problem, const Kernel& kernel, const Sink& sink) {
  if (problem.a.rows == 0 || problem.b->layout.n == 0) return;
  if (problem.a.cols == 0) return put_empty_sums(problem, sink);
  Job job(problem, kernel, sink);
  if (job.row_parts * job.panel_parts == 1) return run_task(job, 0);
  const auto task = [](void* context, int64_t i) { run_task(*static_cast<const Job*>(context), i); };
  parallel_for(job.row_parts * job.panel_parts, task, &job);
}

}  // namespace ulp
