// X_a of windows (arguments.h): the sum over k of the codes of each, for weights that need it.
#pragma once

#include "cuda/conv_rows.cuh"

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

// Adds the slices of a convolution that was split in k and finishes the result: one thread per channel, of whole sixteens.
__global__ void __launch_bounds__(kReduceThreads) add_conv_slices(const __grid_constant__ ConvArguments p) {
  const int64_t channels = (p.n + kStrip - 1) / kStrip * kStrip;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
  const int row = static_cast<int>(at / channels);  // the last ones may be none
  const int channel = static_cast<int>(at - row * channels);
  const int64_t width = (p.n + 1) / 2 * 2;
  const int* from = p.partials + min(row, p.m - 1) * width + min(channel, p.n - 1);
  uint32_t sum = 0;  // may wrap, the result fits
  for (int split = 0; split < p.splits; ++split) sum += static_cast<uint32_t>(from[split * p.m * width]);
  const int all[1] = {static_cast<int>(sum)};
  finish_lane(p, lane_channels(p, channel), row, all);
}

}  // namespace ulp::cuda
