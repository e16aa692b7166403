// The small kernel behind a product that was split in k: sums of its slices.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/epilogue.cuh"
#include "cuda/tiles.h"

namespace ulp::cuda {

// Adds the slices of a product that was split in k and finishes the result: one thread per pair of channels.
__global__ void __launch_bounds__(kReduceThreads) add_slices(const __grid_constant__ Arguments p) {
  const int64_t pairs = (p.n + 1) / 2;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
  if (at >= pairs * p.m) return;
  const int row = static_cast<int>(at / pairs);
  const int channel = static_cast<int>(at % pairs) * 2;
  // Modulo 2^32: intermediate sums may wrap, the result fits.
  uint32_t sum[2] = {0, 0};
  for (int split = 0; split < p.splits; ++split) {
    const int2 part = *reinterpret_cast<const int2*>(p.partials + (split * static_cast<int64_t>(p.m) + row) * pairs * 2 + channel);
    sum[0] += static_cast<uint32_t>(part.x);
    sum[1] += static_cast<uint32_t>(part.y);
  }
  const int both[2] = {static_cast<int>(sum[0]), static_cast<int>(sum[1])};
  finish(p.finish, Channels<2>(p.finish, channel), row, both);
}

}  // namespace ulp::cuda
