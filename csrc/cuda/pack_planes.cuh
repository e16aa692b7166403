// The kernel that packs activations to the planes of planes.cuh, before each product on 1-bit tensor cores.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/plane_block.cuh"
#include "cuda/ptx.cuh"

namespace ulp::cuda {

constexpr int kPlanesSharedBytes = kPlanesThreads / 32 * 4;

// Writes the planes of one row per thread block, and if `sums` is not null X_a of arguments.h.
__global__ void __launch_bounds__(kPlanesThreads)
    pack_planes(const __grid_constant__ PlaneSource a, const __grid_constant__ Planes p, unsigned char* planes, int* sums) {
  const int row = static_cast<int>(blockIdx.x);
  const int blocks = (a.k + kBlock - 1) / kBlock;
  uint32_t sum = 0;
  for (int first = 0; first < blocks; first += kPlanesThreads / 4) {  // the same for all lanes, as they exchange bits
    const int block = first + static_cast<int>(threadIdx.x) / 4;
    sum += pack_block(a, p, a.data + row * a.stride, block, [&](int plane, uint32_t word) {
      if (block >= blocks) return;
      unsigned char* to = planes + (plane * static_cast<int64_t>(a.m) + row) * p.stride + block * 16;
      reinterpret_cast<uint32_t*>(to)[threadIdx.x % 4] = word;
    });
  }
  if (sums == nullptr) return;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  const uint32_t shared = ptx::shared_base();
  if (threadIdx.x % 32 == 0) ptx::store_shared(shared + threadIdx.x / 32 * 4, sum);
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t all = 0;
  for (int warp = 0; warp < kPlanesThreads / 32; ++warp) all += ptx::load_shared(shared + warp * 4);
  sums[row] = static_cast<int>(a.bipolar ? static_cast<uint32_t>(a.k) - 2 * all : all);
}

}  // namespace ulp::cuda
