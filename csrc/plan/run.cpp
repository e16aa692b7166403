// A plan's buffers, and its runs.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "../gemm/range.h"
#include "../gemm/scratch.h"
#include "../gemm/threads.h"
#include "steps.h"

namespace ulp {
namespace {

// Buffers beyond this (64 TiB) are a mistake; sums of sizes stay far below 2^63.
constexpr int64_t kMaxBytes = int64_t{1} << 46;

// Kernels may read this many bytes of an image's codes behind the last pixel, with weights of 0 (conv.h). They must be codes all the same,
// for the bounds of narrow sums rest on that.
constexpr int64_t kTail = 4;

// A stretch of the arena that is in use from one step to another.
struct Stretch {
  int64_t begin, end;
  int first_step, last_step;
};

void check_bytes(int64_t bytes, int64_t group) {
  if (bytes <= kMaxBytes / group) return;
  throw std::invalid_argument("the buffers of the plan take more than " + std::to_string(kMaxBytes >> 40) +
                              " TiB with group = " + std::to_string(group) + "; the images are too large");
}

// The lowest place that is free for all of the steps. Large ones are placed first, which leaves few gaps.
int64_t place(std::vector<Stretch>& taken, int64_t bytes, int first_step, int last_step) {
  std::vector<Stretch> others;
  for (const Stretch& s : taken) {
    if (s.first_step <= last_step && first_step <= s.last_step) others.push_back(s);
  }
  std::sort(others.begin(), others.end(), [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
  int64_t at = 0;
  for (const Stretch& s : others) {
    if (s.begin - at >= bytes) break;
    at = std::max(at, s.end);
  }
  taken.push_back({at, at + bytes, first_step, last_step});
  return at;
}

// What lies around the image, and behind the channels where they are padded, becomes the code of zero.
void fill_border(const Tensor& t, uint8_t* arena, int64_t images) {
  const Border& b = t.border;
  std::memset(arena + t.begin + images * t.image, t.zero, kTail);
  for (int64_t i = 0; i < images; ++i) {
    uint8_t* begin = arena + t.begin + i * t.image;
    uint8_t* end = begin + t.image;
    if (t.pixel != t.channels) {
      std::memset(begin, t.zero, static_cast<size_t>(t.image));
      continue;
    }
    if (t.whole()) continue;
    uint8_t* row = arena + t.first + i * t.image;
    const size_t between = static_cast<size_t>((b.left + b.right) * t.pixel);
    std::memset(begin, t.zero, static_cast<size_t>(row - begin));
    for (int y = 0; y + 1 < t.height; ++y) std::memset(row + y * t.row + t.width * t.pixel, t.zero, between);
    uint8_t* last = row + (t.height - 1) * t.row + t.width * t.pixel;
    std::memset(last, t.zero, static_cast<size_t>(end - last));
  }
}

}  // namespace

void Plan::finalize(int64_t group, bool throughput, bool tune) {
  if (finalized_) throw std::invalid_argument("the plan is finalized");
  if (steps_.empty() || infos_[0].name != "input") throw std::invalid_argument("the plan has no input");
  if (output_ports_.empty()) throw std::invalid_argument("the plan has no output");
  if (group < 1 || group > 1 << 16) throw std::invalid_argument("group = " + std::to_string(group) + " is outside 1..65536");
  lay_out(group);
  group_ = group;
  throughput_ = throughput;
  if (tune) tune_steps();
  finalized_ = true;
}

void Plan::tune_steps() {
  AlignedBytes arena = new_arena();
  const int threads = throughput_ ? 1 : num_threads();
  std::vector<AlignedBytes> results;
  std::vector<void*> outputs;
  for (const Port& port : output_ports_) {
    results.emplace_back(static_cast<size_t>(port.shape[0] * port.shape[1] * port.shape[2] * (port.is_codes ? 1 : 4)));
    outputs.push_back(results.back().data());
  }
  const Context context{tensors_, arena.data(), 1, 0, nullptr, outputs.data(), Tasks{threads > 1, threads}, ops(current_isa()), nullptr};
  for (size_t i = 0; i < steps_.size(); ++i) steps_[i]->tune(context, infos_[i]);
}

AlignedBytes Plan::new_arena() const {
  AlignedBytes arena(static_cast<size_t>(arena_bytes_) + 64);
  std::memset(arena.data(), 0, arena.size() + 64);
  return arena;
}

void Plan::lay_out(int64_t group) {
  fresh_.assign(steps_.size(), {});
  arena_bytes_ = 0;
  for (Tensor& t : tensors_) {
    t.first_step = t.last_step = t.port = -1;
    t.begin = t.first = 0;
  }
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int step = static_cast<int>(i);
    for (const int id : steps_[i]->writes) {
      Tensor& t = tensors_[static_cast<size_t>(id)];
      if (t.first_step < 0) {
        t.first_step = step;
        fresh_[i].push_back(id);
      }
      t.last_step = step;
    }
    for (const int id : steps_[i]->reads) tensors_[static_cast<size_t>(id)].last_step = step;
  }

  std::vector<int> readers(tensors_.size());
  for (const auto& step : steps_) {
    for (const int id : step->reads) ++readers[static_cast<size_t>(id)];
  }

  struct Wanted {
    int64_t bytes;
    int first_step, last_step;
    int64_t* at;
  };
  std::vector<Wanted> wanted;
  for (Tensor& t : tensors_) {
    if (t.first_step < 0) continue;
    const int64_t channels = t.is_codes && !t.tight_reader ? round_up(t.channels, 4) : t.channels;
    t.pixel = channels * t.element();
    t.row = t.pixel * (t.width + t.border.left + t.border.right);
    t.image = t.row * (t.height + t.border.top + t.border.bottom);
  }
  for (const auto& step : steps_) {
    const int port = step->direct_port(tensors_);
    if (port < 0) continue;
    // Nobody else may read it: what kernels read behind a tensor's end is there in the arena only.
    const int id = step->reads[0];
    if (readers[static_cast<size_t>(id)] == 1) tensors_[static_cast<size_t>(id)].port = port;
  }
  for (Tensor& t : tensors_) {
    if (t.first_step < 0 || t.port >= 0) continue;
    check_bytes(t.image, group);
    wanted.push_back({group * t.image + (t.is_codes ? kTail : 0), t.first_step, t.last_step, &t.begin});
  }
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int64_t bytes = steps_[i]->bind(tensors_, group, infos_[i]);
    if (bytes <= 0) continue;
    check_bytes(bytes, group);
    wanted.push_back({group * bytes, static_cast<int>(i), static_cast<int>(i), &steps_[i]->scratch});
  }
  std::stable_sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) { return a.bytes > b.bytes; });
  std::vector<Stretch> taken;
  for (const Wanted& w : wanted) {
    *w.at = place(taken, round_up(w.bytes, 64), w.first_step, w.last_step);
    check_bytes(taken.back().end, 1);
    arena_bytes_ = std::max(arena_bytes_, taken.back().end);
  }
  for (Tensor& t : tensors_) t.first = t.begin + t.border.top * t.row + t.border.left * t.pixel;
}

void Plan::run_group(const Context& context) const {
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin = context.step_ns ? Clock::now() : Clock::time_point{};
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (const int id : fresh_[i]) {
      const Tensor& t = tensors_[static_cast<size_t>(id)];
      if (t.is_codes && t.port < 0) fill_border(t, context.arena, context.images);
    }
    steps_[i]->run(context);
    if (context.step_ns) {
      const Clock::time_point end = Clock::now();
      context.step_ns[i] += std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count();
      begin = end;
    }
  }
}

void Plan::run(const Input& input, void* const* outputs, int64_t* step_ns) const {
  const int threads = num_threads();
  const int64_t groups = ceil_div(input.images, group_);
  const bool split = throughput_ && threads > 1 && groups > 1 && !step_ns;
  const Tasks over_groups{split, threads};
  const Ops& table = ops(current_isa());
  over_groups.run(groups, [&](int64_t g) {
    AlignedBytes arena;
    {
      const std::lock_guard<std::mutex> lock(arenas_mutex_);
      if (!arenas_.empty()) {
        arena = std::move(arenas_.back());
        arenas_.pop_back();
      }
    }
    if (arena.size() == 0) arena = new_arena();
    const int64_t first = g * group_;
    const Context context{tensors_,   arena.data(), std::min(group_, input.images - first), first,
                          input.data, outputs,      Tasks{!split && threads > 1, threads},  table,
                          step_ns};
    run_group(context);
    const std::lock_guard<std::mutex> lock(arenas_mutex_);
    arenas_.push_back(std::move(arena));
  });
}

}  // namespace ulp
