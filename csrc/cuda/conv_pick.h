// The choice of kernel, tile and split for a convolution: a pure function of its sizes and the machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/api.h"
#include "cuda/conv_kernels.h"

namespace ulp::cuda {

// A convolution as a product: m windows of k codes by n channels.
struct ConvSize {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int a_bits = 0;
  int b_bits = 0;
  // The same for 1-bit tensor cores, if there are weights for them: channels padded to whole blocks, bits of weights, the codes and pixels
  // that are packed, and whether the sums of windows are needed.
  int64_t plane_k = 0;
  int plane_bits = 0;
  int64_t codes = 0;
  int64_t pixels = 0;
  bool plane_sums = false;
  bool as_planes = false;  // the codes are packed already
};

// Of one multiprocessor.
struct SharedMemory {
  int per_block = 0;
  int all = 0;
};

struct ConvPlan {
  const ConvRow* row = nullptr;
  int splits = 1;
  int steps_per_split = 0;  // of row->step() k
  int stages = 0;
  int shared_bytes = 0;
  int64_t channel_tiles = 0;
  int64_t pixel_tiles = 0;
  int64_t grid = 0;   // thread blocks; of one split but for wgmma
  double clocks = 0;  // modelled

  std::string text() const;
};

// max_splits: slices that there is memory for; more are used only where K is too long for one accumulator, and in clusters, which need
// none. kernel: a name, or nullptr for the best. std::invalid_argument where a name is not known, or cannot run this.
ConvPlan plan_conv(const ConvSize& size, const Machine& machine, const SharedMemory& shared, int max_splits, const char* kernel);

// Modelled clocks to move so many bytes beside a kernel's own operands.
double clocks_to_move(double bytes, const Machine& machine);

// How many slices of sums a convolution of one image should have memory for; at least those that a long K needs.
int useful_splits(const ConvSize& one_image, const Machine& machine);

// Whether planes of these bits may be faster than bytes on the machine, so that weights for them are worth their memory.
bool planes_pay(int a_bits, int b_bits, const Machine& machine);

std::vector<std::string> conv_kernel_names();

}  // namespace ulp::cuda
