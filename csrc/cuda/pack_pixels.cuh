// The kernel that packs the pixels of images to planes, before each convolution on 1-bit tensor cores.
#pragma once

#include <cuda_runtime.h>

#include "cuda/plane_block.cuh"

namespace ulp::cuda {

constexpr int kPixelsPerBlock = kPlanesThreads / 4;

// As pack_planes, but four lanes take a whole row, as pixels have few channels and there are many of them. `a` is not bipolar.
__global__ void __launch_bounds__(kPlanesThreads)
    pack_pixels(const __grid_constant__ PlaneSource a, const __grid_constant__ Planes p, unsigned char* planes, int* sums) {
  const int row = static_cast<int>(blockIdx.x) * kPixelsPerBlock + static_cast<int>(threadIdx.x) / 4;
  const bool there = row < a.m;  // lanes of a row that is not exchange bits of the last one
  const unsigned char* from = a.data + min(row, a.m - 1) * a.stride;
  const int blocks = (a.k + kBlock - 1) / kBlock;
  uint32_t sum = 0;
  for (int block = 0; block < blocks; ++block) {
    sum += pack_block(a, p, from, block, [&](int plane, uint32_t word) {
      if (!there) return;
      unsigned char* to = planes + (plane * static_cast<int64_t>(a.m) + row) * p.stride + block * 16;
      reinterpret_cast<uint32_t*>(to)[threadIdx.x % 4] = word;
    });
  }
  if (sums == nullptr) return;
  sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
  sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
  if (there && threadIdx.x % 4 == 0) sums[row] = static_cast<int>(sum);
}

}  // namespace ulp::cuda
