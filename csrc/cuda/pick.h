// The choice of kernel, tile and split for a product: a pure function of shape, bits and machine that can explain itself.
#pragma once

#include <cstdint>

#include "cuda/api.h"
#include "cuda/kernels.h"

namespace ulp::cuda {

// Modelled clocks of a product, by what could bound it (figures in pick.cpp).
struct Estimate {
  double tensor = 0;  // tensor cores
  double feed = 0;    // operands from L2 into the multiprocessors
  double memory = 0;  // operands and result from and to memory
  double fixed = 0;   // starting kernels, filling the ring, packing planes, adding the slices of a split
  double total() const;
  const char* bound() const;
};

struct Plan {
  const KernelRow* row = nullptr;
  int splits = 1;
  int multicast = 1;
  int stages = 0;
  int steps_per_split = 0;  // of row->step() k
  int64_t channel_tiles = 0;
  int64_t token_tiles = 0;
  int64_t grid = 0;  // thread blocks; for mma those of one split
  int shared_bytes = 0;
  bool row_sums = false;
  int64_t planes_at = 0;    // of a 1-bit kernel's activations, in the workspace after the row sums
  int64_t partials_at = 0;  // in the workspace, after both
  int64_t workspace_bytes = 0;
  Estimate estimate;
};

// Multiply-accumulates per clock of one multiprocessor, of bits on Unit::b1; 0 where there is no such unit. wgmma: by Hopper's instruction.
double tensor_rate(Unit unit, bool wgmma, int arch);

// kernel: a name, or nullptr. std::invalid_argument as `pick` says.
Plan plan(const Situation& situation, const Machine& machine, const char* kernel);

}  // namespace ulp::cuda
