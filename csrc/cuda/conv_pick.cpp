#include "cuda/conv_pick.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace ulp::cuda {
namespace {

constexpr int64_t kMaxGrid = INT64_C(2147483647);

const char* objection(const ConvRow& row, const ConvSize& size, const Machine& machine) {
  if (!row.nibbles) return nullptr;
  if (machine.arch >= 90) return "sm_90 and later have no 4-bit tensor cores";
  if (size.a_bits > 4 || size.b_bits > 4) return "codes and weights must have 4 bits or fewer";
  return nullptr;
}

// Multiply-accumulates per clock of a multiprocessor: NVIDIA's dense int8 rates, twice as many for 4 bits; mma.sync on Hopper at 63 %.
double rate(const ConvRow& row, int arch) {
  const double bytes = arch == 80 || arch == 100 ? 2048 : arch == 90 ? 2580 : 1024;
  return row.nibbles ? 2 * bytes : bytes;
}

// Bytes per clock from L2 into a multiprocessor (an estimate), and clocks to start and end a kernel.
constexpr double kFeed = 32;
constexpr double kStart = 2500;
constexpr double kSlices = 3500;

double clocks(const ConvRow& row, const ConvSize& size, int64_t tiles, int splits, int blocks, const Machine& machine) {
  const double tensor = row.channels * row.pixels * kBlock / rate(row, machine.arch);
  const double feed = (row.channels / kStrip * strip_bytes(size.b_bits) + row.pixels * kBlock) / kFeed;
  const double rounds = std::ceil(static_cast<double>(tiles * splits) / machine.sms);
  const double slices = splits > 1 ? kSlices + 8.0 * static_cast<double>(size.m * size.n * splits) / (kFeed * machine.sms) : 0;
  return kStart + rounds * blocks * std::max(tensor, feed) + slices;
}

int64_t min_splits(int64_t blocks) { return std::max<int64_t>(1, ceil_div(blocks, kMaxSplitK / kBlock)); }

// As many stages as fit half of a multiprocessor's memory, so that two thread blocks share it, if these are three; else what fits.
int stages_of(const ConvRow& row, int bits, const SharedMemory& shared) {
  for (const int budget : {std::min(shared.per_block, shared.all / 2 - 1024), shared.per_block}) {
    for (int stages = kMaxMmaStages; stages >= 2; --stages) {
      if (row.shared_bytes(bits, stages) <= budget && (stages >= 3 || budget == shared.per_block)) return stages;
    }
  }
  return 0;
}

ConvPlan best_of(const ConvRow& row, const ConvSize& size, const Machine& machine, const SharedMemory& shared, int max_splits) {
  ConvPlan best;
  const int64_t blocks = ceil_div(size.k, kBlock);
  const int64_t least = min_splits(blocks);
  const int stages = stages_of(row, size.b_bits, shared);
  const int64_t tiles = ceil_div(size.n, row.channels) * ceil_div(size.m, row.pixels);
  if (stages == 0 || tiles > kMaxGrid) return best;
  for (int64_t splits = least; splits <= std::max<int64_t>(least, max_splits); ++splits) {
    const int64_t per_split = ceil_div(blocks, splits);
    if (splits > 1 && per_split * (splits - 1) >= blocks) continue;  // a split would be empty
    const double expected = clocks(row, size, tiles, static_cast<int>(splits), static_cast<int>(per_split), machine);
    if (best.row != nullptr && expected >= best.clocks) continue;
    best = {&row, static_cast<int>(splits), static_cast<int>(per_split), stages, row.shared_bytes(size.b_bits, stages), tiles, expected};
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

int useful_splits(const ConvSize& one_image, const Machine& machine) {
  const int64_t blocks = ceil_div(one_image.k, kBlock);
  const int64_t tiles = ceil_div(one_image.n, 64) * ceil_div(one_image.m, 64);
  const int64_t idle = machine.sms / std::max<int64_t>(tiles, 1);  // multiprocessors per tile
  // Less than four blocks of k each are not worth the second kernel.
  const int64_t useful = std::min<int64_t>({idle, blocks / 4, 8});
  return static_cast<int>(std::max(useful, min_splits(blocks)));
}

std::vector<std::string> conv_kernel_names() {
  std::vector<std::string> list;
  for (const ConvRow& row : kConvKernels) list.emplace_back(row.name);
  return list;
}

std::string ConvPlan::text() const {
  return std::string(row->name) + ": " + std::to_string(tiles) + " tiles of " + std::to_string(row->channels) + " channels x " +
         std::to_string(row->pixels) + " pixels, K in " + std::to_string(splits) + (splits == 1 ? " part, " : " parts, ") +
         std::to_string(stages) + " stages, " + std::to_string(shared_bytes) + " bytes of shared memory, " +
         std::to_string(static_cast<int64_t>(clocks)) + " modelled clocks";
}

}  // namespace ulp::cuda
