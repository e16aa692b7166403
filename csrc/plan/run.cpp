// How a plan runs.
#include <cstring>
#include <optional>

#include "../gemm/threads.h"
#include "arena.h"
#include "clock.h"

namespace ulp {

namespace {

// Multiply-accumulates and bytes of a call that takes some milliseconds.
constexpr int64_t kLongRun = int64_t{1} << 26;

}  // namespace

ImageView<uint8_t> Context::codes(Slice s) const {
  const Tensor& t = tensor(s.tensor);
  uint8_t* data = t.port >= 0 ? static_cast<uint8_t*>(outputs[t.port]) + first_image * t.strides.image : arena + t.first;
  return {data + s.channel * t.element_bytes(), t.strides};
}

ImageView<float> Context::floats(Slice s) const {
  const ImageView<uint8_t> bytes = codes(s);
  const int64_t size = sizeof(float);
  return {reinterpret_cast<float*>(bytes.data), {bytes.strides.pixel / size, bytes.strides.row / size, bytes.strides.image / size}};
}

std::unique_ptr<AlignedBytes> Plan::new_arena(int64_t factor) const {
  auto arena = std::make_unique<AlignedBytes>(static_cast<size_t>(arena_bytes_ * factor) + 64);
  std::memset(arena->data(), 0, arena->size() + 64);
  return arena;
}

void Plan::tune_steps(const std::function<void()>& tuned) {
  const std::unique_ptr<AlignedBytes> arena = new_arena();
  const int threads = throughput_ ? 1 : num_threads();
  std::vector<AlignedBytes> results;
  std::vector<void*> outputs;
  for (const Port& port : output_ports_) {
    results.emplace_back(static_cast<size_t>(port.shape[0] * port.shape[1] * port.shape[2] * (port.is_codes ? 1 : 4)));
    outputs.push_back(results.back().data());
  }
  Context context{tensors_, arena->data(), 1, 0, nullptr, outputs.data(), Tasks{threads > 1, threads}, ops(current_isa())};
  for (PlannedStep& s : steps_) {
    context.scratch = arena->data() + s.scratch;
    s.step->tune(context);
    if (tuned) tuned();
  }
}

void Plan::run_group(const Context& group, int64_t* step_ns, InterruptChecks* interrupt, int64_t factor) const {
  const bool one_thread = group.tasks.threads <= 1;
  int64_t begin = step_ns ? clock_ns(one_thread) : 0;
  Context context = group;
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (interrupt && i > 0) interrupt->check();
    for (const int id : steps_[i].fresh) {
      const Tensor& t = context.tensor(id);
      if (t.is_codes && t.port < 0) fill_border(t, context.arena, context.images);
    }
    context.scratch = context.arena + factor * steps_[i].scratch;
    steps_[i].step->run(context);
    if (step_ns) {
      const int64_t end = clock_ns(one_thread);
      step_ns[i] += end - begin;
      begin = end;
    }
  }
}

// More images than a group has, all at once: each buffer that lies at x for one group lies at factor * x for so many of them.
void Plan::run_batch(const Context& context, int64_t* step_ns, InterruptChecks* interrupt) const {
  const int64_t factor = ceil_div(context.images, group_);
  if (arena_bytes_ > (int64_t{1} << 46) / factor) refuse("a batch of " + std::to_string(context.images) + " is too large for one plan");
  std::vector<Tensor> tensors = tensors_;
  for (Tensor& t : tensors) {
    t.first += (factor - 1) * t.begin;
    t.begin *= factor;
  }
  const std::unique_ptr<AlignedBytes> arena = new_arena(factor);
  run_group({tensors, arena->data(), context.images, 0, context.inputs, context.outputs, context.tasks, context.ops}, step_ns, interrupt,
            factor);
}

void Plan::run(const Inputs& inputs, void* const* outputs, int64_t* step_ns) const {
  const int threads = num_threads();
  const int64_t groups = ceil_div(inputs.images, group_);
  const bool split = throughput_ && !whole_batch_ && threads > 1 && groups > 1 && !step_ns;
  const Ops& table = ops(current_isa());
  // Small calls are spared the looks at the clock. Where the groups go to threads, parallel_for asks between them.
  std::optional<InterruptChecks> checks;
  if (!split && inputs.images * (macs_ + arena_bytes_) > kLongRun) checks.emplace();
  InterruptChecks* const interrupt = checks ? &*checks : nullptr;
  if (whole_batch_ && groups > 1) {
    run_batch({tensors_, nullptr, inputs.images, 0, inputs.data, outputs, Tasks{threads > 1, threads}, table}, step_ns, interrupt);
    return;
  }
  Tasks{split, threads}.run(groups, [&](int64_t g) {
    std::unique_ptr<AlignedBytes> arena = arenas_.take();
    if (!arena) arena = new_arena();
    const int64_t first = g * group_;
    run_group({tensors_, arena->data(), std::min(group_, inputs.images - first), first, inputs.data, outputs,
               Tasks{!split && threads > 1, threads}, table},
              step_ns, interrupt);
    if (interrupt) interrupt->check();
    arenas_.put(std::move(arena));
  });
}

}  // namespace ulp
