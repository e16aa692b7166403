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
};

// Of one multiprocessor.
struct SharedMemory {
  int per_block = 0;
  int all = 0;
};

struct ConvPlan {
  const ConvRow* row = nullptr;
  int splits = 1;
  int blocks_per_split = 0;
  int stages = 0;
  int shared_bytes = 0;
  int64_t tiles = 0;
  double clocks = 0;  // modelled

  std::string text() const;
};

// max_splits: slices that there is memory for; more are used only where K is too long for one accumulator. kernel: a name, or nullptr for
// the best. std::invalid_argument where a name is not known, or cannot run this.
ConvPlan plan_conv(const ConvSize& size, const Machine& machine, const SharedMemory& shared, int max_splits, const char* kernel);

// How many slices of sums a convolution of one image should have memory for; at least those that a long K needs.
int useful_splits(const ConvSize& one_image, const Machine& machine);

std::vector<std::string> conv_kernel_names();

}  // namespace ulp::cuda
