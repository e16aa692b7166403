#include "cuda/conv_pick.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "cuda/pick.h"

namespace ulp::cuda {
namespace {

// Pairs of planes beyond which 1-bit tensor cores are slower than bytes on every machine that has them.
constexpr int kMaxPlanePairs = 4;

const char* objection(const ConvRow& row, const ConvSize& size, const Machine& machine) {
  if (tensor_rate(row.unit, row.hopper, machine.arch) == 0) {
    return row.hopper             ? "it needs sm_90 (Hopper)"
           : row.unit == Unit::s4 ? "sm_90 and later have no 4-bit tensor cores"
                                  : "only sm_80 to 90 have 1-bit tensor cores that count AND";
  }
  if (row.unit == Unit::s4 && (size.a_bits > 4 || size.b_bits > 4)) return "codes and weights must have 4 bits or fewer";
  if (!row.planes() && size.as_planes) return "the codes lie as planes";
  if (row.planes() && size.plane_k == 0) return "codes and weights must have few bits, of which there are planes";
  return nullptr;
}

// Bytes per clock from L2 into a multiprocessor (an estimate), and clocks to start and end a kernel.
constexpr double kFeed = 32;
constexpr double kStart = 2500;
constexpr double kSecondKernel = 3500;
constexpr double kExchange = 1200;  // of sums in a cluster

// What of a convolution depends on the row.
struct RowSize {
  int64_t steps;      // of k
  int64_t max_steps;  // of one accumulator
  int bits;           // of weights
  int passes;
};

RowSize size_for(const ConvRow& row, const ConvSize& size) {
  if (!row.planes()) return {ceil_div(size.k, row.step()), kMaxSplitK / row.step(), size.b_bits, 1};
  const int64_t largest = INT32_MAX / (((1 << size.a_bits) - 1) * ((1 << size.plane_bits) - 1));  // planes.cuh
  return {ceil_div(size.plane_k, row.step()), largest / row.step(), size.plane_bits, size.a_bits * size.plane_bits};
}

double clocks(const ConvPlan& p, const ConvSize& size, const RowSize& s, const Machine& machine) {
  const ConvRow& row = *p.row;
  const double used = row.hopper && size.n <= kPanel / 2 ? 0.5 : 1;  // of the channels: a warpgroup without any does nothing
  const double tensor = used * row.channels * row.pixels * row.step() / tensor_rate(row.unit, row.hopper, machine.arch);
  const double feed = (used * row.channels / kStrip * strip_bytes(s.bits) * stage_blocks(row.unit) + row.pixels * kBlock) / kFeed;
  const double rounds = std::ceil(static_cast<double>(p.channel_tiles * p.pixel_tiles * p.splits) / machine.sms);
  double fixed = kStart;
  const double all = kFeed * machine.sms;
  const double m = static_cast<double>(size.m);
  if (p.splits > 1) fixed += row.hopper ? kExchange : kSecondKernel + 8 * m * static_cast<double>(size.n) * p.splits / all;
  if (row.planes()) {
    if (!size.as_planes) fixed += kSecondKernel + static_cast<double>(size.codes) * (1 + size.a_bits / 8.0) / all;
    if (size.plane_sums) fixed += kSecondKernel + 4 * (static_cast<double>(size.pixels) + m) / all;
  }
  return fixed + rounds * p.steps_per_split * s.passes * std::max(tensor, feed);
}

int64_t min_splits(int64_t steps, int64_t max_steps) { return std::max<int64_t>(1, ceil_div(steps, max_steps)); }

// As many stages as fit half of a multiprocessor's memory, so that two thread blocks share it, if these are three; else what fits. A wgmma
// block runs alone.
int stages_of(const ConvRow& row, int bits, const SharedMemory& shared) {
  for (const int budget : {row.hopper ? 0 : std::min(shared.per_block, shared.all / 2 - 1024), shared.per_block}) {
    for (int stages = row.max_stages(); stages >= row.min_stages(); --stages) {
      if (row.shared_bytes(bits, stages) <= budget && (stages >= 3 || budget == shared.per_block)) return stages;
    }
  }
  return 0;
}

ConvPlan best_of(const ConvRow& row, const ConvSize& size, const Machine& machine, const SharedMemory& shared, int max_splits) {
  ConvPlan best;
  const RowSize s = size_for(row, size);
  const int64_t fewest = min_splits(s.steps, s.max_steps);
  const int64_t most = row.hopper ? kSm90MaxSplits : row.planes() ? max_splits : std::max<int64_t>(fewest, max_splits);
  ConvPlan p;
  p.row = &row;
  p.stages = stages_of(row, s.bits, shared);
  p.channel_tiles = ceil_div(size.n, row.channels);
  p.pixel_tiles = ceil_div(size.m, row.pixels);
  const int64_t tiles = p.channel_tiles * p.pixel_tiles;
  if (p.stages == 0 || tiles > std::numeric_limits<int32_t>::max() / kSm90MaxSplits) return best;
  p.shared_bytes = row.shared_bytes(s.bits, p.stages);
  for (int64_t splits = row.hopper ? 1 : fewest; splits <= most; row.hopper ? splits *= 2 : ++splits) {
    if (row.hopper && splits > 1 && row.pixels > kSm90SplitTokens) break;
    p.splits = static_cast<int>(splits);
    p.steps_per_split = static_cast<int>(ceil_div(s.steps, splits));
    if (p.steps_per_split > s.max_steps || (splits > 1 && p.steps_per_split * (splits - 1) >= s.steps)) continue;  // or one is empty
    // Of wgmma, with splits one tile per cluster; else the blocks are persistent and take one tile after the other.
    p.grid = !row.hopper ? tiles : splits > 1 ? tiles * splits : std::min<int64_t>(tiles, machine.sms);
    p.clocks = clocks(p, size, s, machine);
    if (best.row == nullptr || p.clocks < best.clocks) best = p;
  }
  return best;
}

}  // namespace

ConvPlan plan_conv(const ConvSize& size, const Machine& machine, const SharedMemory& shared, int max_splits, const char* kernel) {
  ConvPlan best;
  bool known = false;
  for (const ConvRow& row : kConvKernels) {
    if (kernel != nullptr && row.name != kernel) continue;
    known = true;
    if (const char* why = objection(row, size, machine)) {
      if (kernel != nullptr) throw std::invalid_argument("kernel='" + std::string(kernel) + "' cannot convolve this: " + why);
      continue;
    }
    const ConvPlan p = best_of(row, size, machine, shared, max_splits);
    if (p.row != nullptr && (best.row == nullptr || p.clocks < best.clocks)) best = p;
  }
  if (!known) {
    std::string names;
    for (const std::string& name : conv_kernel_names()) names += (names.empty() ? "" : ", ") + name;
    throw std::invalid_argument("kernel='" + std::string(kernel) + "' is not a kernel for convolutions on CUDA: known are " + names);
  }
  if (best.row == nullptr) throw std::invalid_argument("no kernel has a grid for a convolution of these sizes: run it on fewer images");
  return best;
}

double clocks_to_move(double bytes, const Machine& machine) { return bytes / (kFeed * machine.sms); }

int useful_splits(const ConvSize& one_image, const Machine& machine) {
  const int64_t blocks = ceil_div(one_image.k, kBlock);
  const int64_t tiles = ceil_div(one_image.n, 64) * ceil_div(one_image.m, 64);
  const int64_t idle = machine.sms / std::max<int64_t>(tiles, 1);  // multiprocessors per tile
  // Less than four blocks of k each are not worth the second kernel.
  const int64_t useful = std::min<int64_t>({idle, blocks / 4, 8});
  return static_cast<int>(std::max(useful, min_splits(blocks, kMaxSplitK / kBlock)));
}

bool planes_pay(int a_bits, int b_bits, const Machine& machine) {
  return b_bits <= kMaxConvPlanes && a_bits * b_bits <= kMaxPlanePairs && tensor_rate(Unit::b1, false, machine.arch) != 0;
}

std::vector<std::string> conv_kernel_names() {
  std::vector<std::string> list;
  for (const ConvRow& row : kConvKernels) list.emplace_back(row.name);
  return list;
}

std::string ConvPlan::text() const {
  return std::string(row->name) + ": " + std::to_string(channel_tiles * pixel_tiles) + " tiles of " + std::to_string(row->channels) +
         " channels x " + std::to_string(row->pixels) + " pixels, K in " + std::to_string(splits) + (splits == 1 ? " part, " : " parts, ") +
         std::to_string(stages) + " stages, " + std::to_string(shared_bytes) + " bytes of shared memory, " +
         std::to_string(static_cast<int64_t>(clocks)) + " modelled clocks";
}

}  // namespace ulp::cuda
