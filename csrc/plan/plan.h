// Plan: a network as a list of steps over images of codes, whose buffers are laid out once.
//
// A plan is built step by step, checked as it grows (std::invalid_argument says what is wrong), then finalized; from then on it never
// changes, and any number of threads may run it at once. Shapes are of one image. The contract is ulp/_core.pyi.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../gemm/threads.h"
#include "../pack/packed_matrix.h"
#include "arena_store.h"
#include "step.h"

namespace ulp {

// The arrays of a call: one per input, contiguous, each of so many images.
struct Inputs {
  const void* const* data;
  int64_t images;
};

// A step in its place among the others.
struct PlannedStep {
  const StepKind* kind;
  std::unique_ptr<Step> step;
  Effects effects;
  int port = -1;  // the output that it writes; -1: none
  // Set by finalize:
  std::vector<int> fresh{};  // tensors that no earlier step writes
  int64_t scratch = 0;       // from the arena's start
};

class Plan {
 public:
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // New tensors; they return the id.
  int codes(int64_t height, int64_t width, int64_t channels, int bits, int zero, double scale);
  int floats(int64_t height, int64_t width, int64_t channels);

  // A step whose fields are set. All checks come before anything changes, so a step that is refused leaves the plan as it was.
  void add(const StepKind& kind, std::unique_ptr<Step> step);

  // group: images that go through the steps together. throughput: where a call brings several groups they go to threads, instead of
  // each step's rows. tune: convolutions that can be computed in several ways are timed, on this CPU, for one image, with the threads of
  // now (one with throughput); `tuned` is called behind each step that was looked at, and what it throws ends the tuning.
  void finalize(int64_t group, bool throughput, bool tune, const std::function<void()>& tuned = {});

  // What a caller must bring, once the plan is finalized.
  const std::vector<Port>& input_ports() const { return input_ports_; }
  const std::vector<Port>& output_ports() const { return output_ports_; }

  // outputs: one array per port, images x its shape. step_ns: where not nullptr, the ns of each step are added there.
  // Throws NotFinite or CodeOutOfRange for the input's values.
  void run(const Inputs& inputs, void* const* outputs, int64_t* step_ns) const;

  const std::vector<PlannedStep>& steps() const { return steps_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  void check_open() const;
  int add_tensor(Tensor tensor);
  void take_effect(PlannedStep& added);
  void tune_steps(const std::function<void()>& tuned);
  // factor: how many groups of images it holds.
  std::unique_ptr<AlignedBytes> new_arena(int64_t factor = 1) const;
  // factor: of the arena, where the group is larger than the plan's.
  void run_group(const Context& context, int64_t* step_ns, InterruptChecks* interrupt, int64_t factor = 1) const;
  void run_batch(const Context& context, int64_t* step_ns, InterruptChecks* interrupt) const;

  std::vector<Tensor> tensors_;
  std::vector<PlannedStep> steps_;
  std::vector<Port> input_ports_;
  std::vector<Port> output_ports_;
  bool finalized_ = false;
  bool throughput_ = false;
  bool whole_batch_ = false;
  int64_t group_ = 1;
  int64_t arena_bytes_ = 0;
  int64_t weight_bytes_ = 0;
  int64_t macs_ = 0;  // per image
  mutable ArenaStore arenas_;
};

}  // namespace ulp
