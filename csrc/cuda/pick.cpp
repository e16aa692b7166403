#include "cuda/pick.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace ulp::cuda {
namespace {

// Per clock of one multiprocessor, all of them models until a device has run them. Multiply-accumulates are NVIDIA's dense int8 and int4
// rates divided by multiprocessors and boost clock; mma.sync on Hopper at 63 % of wgmma, which is known to be reached. 1-bit ones: the
// A100's from its data sheet, 8 times int8, and the same ratio for sm_86 and 89; Hopper's 4.4 times int8, as 7000 binary TOPS are reported
// for 8192^3 on an H200 NVL, where int8 products are taken to reach 1590. Bytes from memory are from data sheets, too; those from L2 an
// estimate.
struct Figures {
  int arch;
  double wgmma;
  double wgmma_b1;
  double s8;
  double s4;
  double b1;
  double l2_bytes;
  double memory_bytes;
  int shared_bytes;          // limit per thread block
  int multiprocessor_bytes;  // limit of all blocks on a multiprocessor
};
constexpr Figures kFigures[] = {
    {75, 0, 0, 1024, 2048, 0, 32, 5.0, 65536, 65536},             // T4
    {80, 0, 0, 2048, 4096, 16384, 32, 13.4, 166912, 167936},      // A100
    {86, 0, 0, 1024, 2048, 8192, 32, 6.7, 101376, 102400},        // RTX 3090
    {89, 0, 0, 1024, 2048, 8192, 32, 3.1, 101376, 102400},        // RTX 4090
    {90, 4096, 18000, 2580, 0, 11340, 32, 14.5, 232448, 233472},  // H100 SXM
    {100, 0, 0, 2048, 0, 0, 32, 28.0, 232448, 233472},            // B200; its tcgen05 is not used
    {120, 0, 0, 1024, 0, 0, 32, 4.4, 101376, 102400},             // RTX 5090
};

// An architecture that is not listed has the figures of the newest one before it.
const Figures& figures(int arch) {
  const Figures* best = nullptr;
  for (const Figures& f : kFigures) {
    if (f.arch <= arch) best = &f;
  }
  if (best == nullptr) {
    throw std::invalid_argument("the device is sm_" + std::to_string(arch) + ": ulp's kernels need sm_75 (Turing) or later");
  }
  return *best;
}

bool has_wgmma(const Machine& machine) { return machine.arch == 90; }
bool has_s4(const Machine& machine) { return machine.arch < 90; }
bool has_b1(const Machine& machine) { return machine.arch >= 80 && machine.arch <= 90; }

double rate_of(const KernelRow& row, const Figures& f) {
  switch (row.family) {
    case Family::wgmma:
      return f.wgmma;
    case Family::wgmma_b1:
      return f.wgmma_b1;
    case Family::mma_s4:
      return f.s4;
    case Family::mma_b1:
      return f.b1;
    case Family::mma_s8:
      return f.s8;
  }
  return 0;
}

// Pairs of planes, each of which passes over k.
int passes(const KernelRow& row, const Shape& s) { return row.planes() ? s.a.bits * s.b.bits : 1; }

// The largest K of one accumulator, in steps.
int64_t max_split_steps(const KernelRow& row, const Shape& s) {
  const int64_t k = row.planes() ? INT32_MAX / (((1 << s.a.bits) - 1) * ((1 << s.b.bits) - 1)) : kMaxSplitK;
  return k / row.step();
}

// Why the row cannot run this call, or nullptr.
const char* objection(const KernelRow& row, const Situation& situation, const Machine& machine) {
  const Shape& s = situation.shape;
  switch (row.family) {
    case Family::wgmma:
      if (!has_wgmma(machine)) return "it needs sm_90 (Hopper)";
      if (!situation.aligned) return "a's address and row stride must be multiples of 16 bytes";
      break;
    case Family::wgmma_b1:
      if (!has_wgmma(machine)) return "it needs sm_90 (Hopper)";
      if (s.b.bits > 4) return "b must have 4 bits or fewer";
      break;
    case Family::mma_s4:
      if (!has_s4(machine)) return "sm_90 and later have no 4-bit tensor cores";
      if (s.a.bits > 4 || s.b.bits > 4) return "both operands must have 4 bits or fewer";
      break;
    case Family::mma_b1:
      if (!has_b1(machine)) return "only sm_80 to 90 have 1-bit tensor cores that count AND";
      if (s.b.bits > 4) return "b must have 4 bits or fewer";
      break;
    case Family::mma_s8:
      break;
  }
  if (row.shared_bytes(s.b.bits, 2) > figures(machine.arch).shared_bytes) return "its two stages do not fit in shared memory";
  if (!row.hopper()) return nullptr;
  if (s.k == 0) return "K is 0";
  if (ceil_div(s.k, row.step()) > row.max_splits * max_split_steps(row, s)) return "K is too long for its accumulators";
  return nullptr;
}

// Clocks to start a kernel, fill its ring and end it; of a second kernel; of a cluster's exchange of sums.
constexpr double kStart = 2500;
constexpr double kSecondKernel = 3500;
constexpr double kExchange = 1200;
// A multiprocessor can use at most about twice its share of the memory's bandwidth.
constexpr double kMemoryShare = 2;

Estimate estimate(const Plan& p, const Situation& situation, const Machine& machine, const Figures& f) {
  const Shape& s = situation.shape;
  const KernelRow& row = *p.row;
  const double m = static_cast<double>(s.m);
  const double n = static_cast<double>(s.n);
  const double k = static_cast<double>(s.k);
  // Per tile and step of k, over all passes.
  const double tensor = passes(row, s) * (row.channels * row.tokens * row.step() / rate_of(row, f));
  const double weights = row.channels / kStrip * strip_bytes(s.b.bits) * row.blocks();
  const double feed = passes(row, s) * (weights + row.tokens * kBlock / p.multicast) / f.l2_bytes;
  const double tiles = static_cast<double>(p.channel_tiles * p.token_tiles);
  // Thread blocks that the busiest multiprocessor runs one after the other.
  const double rounds = std::ceil(tiles * p.splits / machine.sms);
  Estimate e;
  e.tensor = rounds * p.steps_per_split * tensor;
  e.feed = rounds * p.steps_per_split * feed;
  const double operands = n * k * s.b.bits / 8 + m * k;
  const double readers = std::min<double>(machine.sms, tiles * p.splits * kMemoryShare);
  e.memory = (operands + 4 * m * n) / (f.memory_bytes * readers);
  e.fixed = kStart;
  if (row.planes()) e.fixed += kSecondKernel + m * k * (1 + s.a.bits / 8.0) / (f.memory_bytes * std::min<double>(machine.sms, m));
  if (p.splits > 1) {
    const double slices = 2 * 4 * m * n * p.splits;
    e.fixed += row.hopper() ? kExchange : kSecondKernel + slices / (f.l2_bytes * machine.sms);
  }
  return e;
}

// Fills the plan of a row for a number of splits; false if that number makes no sense.
bool lay_out(Plan& p, int splits, const Situation& situation, const Machine& machine, const Figures& f) {
  const Shape& s = situation.shape;
  const KernelRow& row = *p.row;
  const int64_t steps = ceil_div(s.k, row.step());
  p.splits = splits;
  p.steps_per_split = static_cast<int>(ceil_div(steps, splits));
  if (p.steps_per_split > max_split_steps(row, s)) return false;
  if (splits > 1 && (p.steps_per_split * (splits - 1) >= steps)) return false;  // a split would be empty
  p.channel_tiles = ceil_div(s.n, row.channels);
  p.token_tiles = ceil_div(s.m, row.tokens);
  p.stages = 0;
  const int max_stages = row.hopper() ? kSm90MaxStages : kMaxMmaStages;
  // Half of a multiprocessor's memory if that allows three stages, so that two thread blocks share it; a wgmma block runs alone.
  for (const int budget : {row.hopper() ? 0 : std::min(f.shared_bytes, f.multiprocessor_bytes / 2 - 1024), f.shared_bytes}) {
    for (int stages = max_stages; stages >= 2 && p.stages == 0; --stages) {
      if (row.shared_bytes(s.b.bits, stages) <= budget && (stages >= 3 || budget == f.shared_bytes)) p.stages = stages;
    }
  }
  if (p.stages == 0) return false;
  p.shared_bytes = row.shared_bytes(s.b.bits, p.stages);
  p.grid = p.channel_tiles * p.token_tiles;
  p.multicast = 1;
  if (row.hopper()) {
    p.multicast = row.tokens > kSm90SplitTokens && p.channel_tiles > 1 ? 2 : 1;
    const int cluster = p.multicast * splits;
    const int64_t clusters = ceil_div(p.channel_tiles, p.multicast) * p.token_tiles;
    // With splits one tile per cluster; else the blocks are persistent and take one tile after the other.
    p.grid = cluster * (splits > 1 ? clusters : std::min<int64_t>(clusters, std::max(1, machine.sms / cluster)));
  }
  if (p.grid > std::numeric_limits<int32_t>::max()) return false;
  const auto aligned = [](int64_t bytes) { return ceil_div(bytes, static_cast<int64_t>(kAlignment)) * static_cast<int64_t>(kAlignment); };
  p.row_sums = situation.b_zero_point || !s.b.is_signed || (row.planes() && s.b.bipolar());
  p.planes_at = p.row_sums ? aligned(s.m * 4) : 0;
  p.partials_at = p.planes_at;
  if (row.planes()) {
    if (s.m > std::numeric_limits<int32_t>::max() / s.a.bits) return false;  // rows of planes are counted in 32 bits
    p.partials_at += aligned(s.a.bits * s.m * ceil_div(s.k, kBlock) * (kBlock / 8));
  }
  p.workspace_bytes = p.partials_at;
  if (splits > 1 && !row.hopper()) p.workspace_bytes += splits * s.m * ceil_div(s.n, 2) * 2 * 4;
  p.estimate = estimate(p, situation, machine, f);
  return true;
}

// The best number of splits of a row, or the wanted one (0: any); row == nullptr in the result if none is possible.
Plan best_of(const KernelRow& row, int wanted, const Situation& situation, const Machine& machine, const Figures& f) {
  Plan best;
  // Fewer would overflow an accumulator; more than this are no faster.
  const int64_t min_splits = std::max<int64_t>(1, ceil_div(ceil_div(situation.shape.k, row.step()), max_split_steps(row, situation.shape)));
  const int64_t max_splits = std::min<int64_t>(row.max_splits, std::max<int64_t>(min_splits, 16));
  for (int64_t splits = row.hopper() ? 1 : min_splits; splits <= max_splits; row.hopper() ? splits *= 2 : ++splits) {
    if (wanted != 0 && splits != wanted) continue;
    Plan p;
    p.row = &row;
    // The grid's second dimension counts the splits: at most 65535, which is beyond any K that an int32 sum allows.
    if (splits > 65535 || !lay_out(p, static_cast<int>(splits), situation, machine, f)) continue;
    if (best.row == nullptr || p.estimate.total() < best.estimate.total()) best = p;
  }
  return best;
}

std::string names() {
  std::string list;
  for (const KernelRow& row : kKernels) list += (list.empty() ? "" : ", ") + std::string(row.name);
  return list;
}

std::string pair(const Shape& s) {
  const auto one = [](const Encoding& e) {
    return std::string(e.bipolar() ? "bipolar " : e.is_signed ? "signed " : "unsigned ") + std::to_string(e.bits);
  };
  return "a " + one(s.a) + " bits, b " + one(s.b) + " bits";
}

std::string explain(const Plan& p, const Situation& situation, const Machine& machine) {
  const Shape& s = situation.shape;
  char line[512];
  std::string text;
  std::snprintf(line, sizeof line, "%s for M=%lld N=%lld K=%lld, %s, on sm_%d with %d multiprocessors\n", std::string(p.row->name).c_str(),
                static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k), pair(s).c_str(), machine.arch,
                machine.sms);
  text += line;
  std::snprintf(line, sizeof line, "  %lld tiles of %d rows x %d columns, K in %d part%s, %d stages, %d bytes of shared memory%s\n",
                static_cast<long long>(p.channel_tiles * p.token_tiles), p.row->tokens, p.row->channels, p.splits, p.splits == 1 ? "" : "s",
                p.stages, p.shared_bytes, p.multicast > 1 ? ", pairs of blocks share activations" : "");
  text += line;
  if (p.row->planes()) {
    std::snprintf(line, sizeof line, "  1-bit tensor cores, %d x %d pairs of planes, after a kernel that packs the %d planes of a\n",
                  s.b.bits, s.a.bits, s.a.bits);
    text += line;
  }
  const Estimate& e = p.estimate;
  std::snprintf(line, sizeof line, "  modelled clocks: tensor cores %.0f, L2 %.0f, memory %.0f, fixed %.0f: bound by %s", e.tensor, e.feed,
                e.memory, e.fixed, e.bound());
  return text + line;
}

bool same(const Situation& x, const Situation& y) {
  const auto fields = [](const Situation& s) {
    return std::make_tuple(s.shape.m, s.shape.n, s.shape.k, s.shape.a.bits, s.shape.a.is_signed, s.shape.b.bits, s.shape.b.is_signed,
                           s.aligned, s.b_zero_point);
  };
  return fields(x) == fields(y);
}

// A kernel by name, as in "wgmma_128x16", or with a number of parts of K, as in "wgmma_128x16/4", so that each number can be timed.
struct Forced {
  std::string_view name;
  int splits = 0;  // 0: the best number
};

Forced forced(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return {text};
  int splits = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, splits);
  if (error != std::errc() || rest != end || splits < 1) {
    throw std::invalid_argument("kernel='" + std::string(text) + "': expected a number of parts of K after the slash, 1 or more");
  }
  return {text.substr(0, slash), splits};
}

Plan make_plan(const Situation& situation, const Machine& machine, const char* kernel) {
  const Figures& f = figures(machine.arch);
  const Forced wanted = kernel != nullptr ? forced(kernel) : Forced{};
  Plan best;
  bool known = false;
  for (const KernelRow& row : kKernels) {
    if (kernel != nullptr && row.name != wanted.name) continue;
    known = true;
    if (const char* why = objection(row, situation, machine)) {
      if (kernel != nullptr) {
        throw std::invalid_argument("kernel='" + std::string(kernel) + "' cannot run " + pair(situation.shape) +
                                    " with K=" + std::to_string(situation.shape.k) + " on sm_" + std::to_string(machine.arch) + ": " + why);
      }
      continue;
    }
    const Plan p = best_of(row, wanted.splits, situation, machine, f);
    if (p.row != nullptr && (best.row == nullptr || p.estimate.total() < best.estimate.total())) best = p;
  }
  if (!known) throw std::invalid_argument("kernel='" + std::string(kernel) + "' is not a kernel for CUDA: known are " + names());
  if (best.row == nullptr && wanted.splits != 0) {
    throw std::invalid_argument("kernel='" + std::string(kernel) + "' cannot run " + pair(situation.shape) +
                                " with K=" + std::to_string(situation.shape.k) + " in that many parts");
  }
  if (best.row == nullptr) throw std::invalid_argument("no kernel has a grid for these shapes: multiply in parts of fewer rows");
  return best;
}

}  // namespace

double Estimate::total() const { return std::max({tensor, feed, memory}) + fixed; }

const char* Estimate::bound() const {
  const double longest = std::max({tensor, feed, memory});
  return fixed > longest ? "fixed costs" : longest == tensor ? "tensor cores" : longest == memory ? "memory" : "L2";
}

// Keeps the last plans, as making one takes about 15 us: every call asks twice, for its workspace and its launch, and the layers of a
// network come again.
Plan plan(const Situation& situation, const Machine& machine, const char* kernel) {
  struct Known {
    Situation situation;
    Machine machine;
    std::string kernel;
    Plan plan;
  };
  constexpr size_t kKnown = 32;
  thread_local std::vector<Known> known;
  thread_local size_t next = 0;
  const std::string name = kernel == nullptr ? "" : kernel;
  for (const Known& k : known) {
    if (same(k.situation, situation) && k.machine.arch == machine.arch && k.machine.sms == machine.sms && k.kernel == name) return k.plan;
  }
  const Plan made = make_plan(situation, machine, kernel);
  if (known.size() < kKnown) known.emplace_back();
  known[next] = {situation, machine, name, made};
  next = (next + 1) % kKnown;
  return made;
}

double tensor_rate(Unit unit, bool wgmma, int arch) {
  const Figures& f = figures(arch);
  if (wgmma && arch != 90) return 0;
  switch (unit) {
    case Unit::s4:
      return has_s4({arch, 1}) ? f.s4 : 0;
    case Unit::b1:
      return !has_b1({arch, 1}) ? 0 : wgmma ? f.wgmma_b1 : f.b1;
    case Unit::s8:
    case Unit::u8:
      break;
  }
  return wgmma ? f.wgmma : f.s8;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> list;
  for (const KernelRow& row : kKernels) list.emplace_back(row.name);
  return list;
}

Choice pick(const Situation& situation, const Machine& machine, const char* kernel) {
  const Plan p = plan(situation, machine, kernel);
  Choice choice;
  choice.kernel = std::string(p.row->name);
  choice.tile = {p.row->tokens, p.row->channels, p.row->step() * p.row->warps_k};
  choice.grid = {p.grid, p.row->hopper() ? 1 : p.splits, 1};
  choice.splits = p.splits;
  choice.shared_bytes = p.shared_bytes;
  choice.workspace_bytes = p.workspace_bytes;
  choice.clocks = p.estimate.total();
  choice.text = explain(p, situation, machine);
  return choice;
}

}  // namespace ulp::cuda
