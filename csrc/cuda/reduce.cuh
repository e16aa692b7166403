// The small kernel before a product: sums of rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/slices.cuh"

namespace ulp::cuda {

// X_a: each warp sums one row of k bytes, signed or not.
__global__ void __launch_bounds__(kReduceThreads)
    sum_rows(const unsigned char* a, int64_t stride, int m, int k, bool aligned, bool is_signed, int* sums) {
  const int row = static_cast<int>(blockIdx.x) * (kReduceThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (row >= m) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned char* from = a + row * stride;
  const uint32_t flip = is_signed ? 0x80808080u : 0;  // makes bytes unsigned: 128 is added to each
  uint32_t sum = 0;
  const int whole = aligned ? k / 16 * 16 : 0;
  for (int at = lane * 16; at < whole; at += 32 * 16) {
    const uint4 value = *reinterpret_cast<const uint4*>(from + at);
    const uint32_t words[4] = {value.x ^ flip, value.y ^ flip, value.z ^ flip, value.w ^ flip};
    uint32_t pairs = 0;  // two 16-bit sums of 8 bytes each
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs += (words[i] & 0x00FF00FFu) + (words[i] >> 8 & 0x00FF00FFu);
    sum += (pairs & 0xFFFF) + (pairs >> 16);
  }
  for (int at = whole + lane; at < k; at += 32) sum += from[at] ^ (flip & 0xFF);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  if (lane == 0) sums[row] = static_cast<int>(sum - (is_signed ? 128u * static_cast<uint32_t>(k) : 0));
}

}  // namespace ulp::cuda
