// X_a of windows (arguments.h): the sum over k of the codes of each, for weights that need it.
#pragma once

#include "cuda/conv_rows.cuh"
#include "cuda/slices.cuh"

namespace ulp::cuda {

// Each warp sums one window.
__global__ void __launch_bounds__(kReduceThreads) sum_windows(const __grid_constant__ ConvArguments p, int* sums) {
  const int row = static_cast<int>(blockIdx.x) * (kReduceThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (row >= p.m) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const WindowPlace place(p, row);
  uint32_t sum = 0;
  for (int k = 4 * lane; k < p.k; k += 4 * 32) {
    const uint32_t word = place.word(p, k);
    const uint32_t pairs = (word & 0x00FF00FFu) + (word >> 8 & 0x00FF00FFu);
    sum += (pairs & 0xFFFF) + (pairs >> 16);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  if (lane == 0) sums[row] = static_cast<int>(sum);
}

}  // namespace ulp::cuda
