// The kernel that packs activations to the planes of planes.cuh, before each product on 1-bit tensor cores.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/layout.h"
#include "cuda/load.cuh"
#include "cuda/ptx.cuh"

namespace ulp::cuda {

constexpr int kPlanesThreads = 256;
constexpr int kPlanesSharedBytes = kPlanesThreads / 32 * 4;

// What pack_planes reads: m rows of k bytes.
struct PlaneSource {
  const unsigned char* data;
  int64_t stride;  // bytes from row to row
  int m;
  int k;
  bool aligned;  // every row starts at a multiple of 16 bytes
  bool bipolar;
};

// Writes the planes of one row per thread block, and if `sums` is not null X_a of arguments.h. Four lanes take a block of k: lane t loads
// its bytes 32 t ... 32 t + 31 (s = t), and exchanges bits with the other three.
__global__ void __launch_bounds__(kPlanesThreads)
    pack_planes(const __grid_constant__ PlaneSource a, const __grid_constant__ Planes p, unsigned char* planes, int* sums) {
  const int row = static_cast<int>(blockIdx.x);
  const unsigned char* from = a.data + row * a.stride;
  const int blocks = (a.k + kBlock - 1) / kBlock;
  const int t = static_cast<int>(threadIdx.x) % 4;
  const bool high = (t & 2) != 0;
  const bool odd = (t & 1) != 0;
  const int place = 2 * (t & 1) + (t >> 1);  // d(s)
  uint32_t sum = 0;
  for (int first = 0; first < blocks; first += kPlanesThreads / 4) {  // the same for all lanes, as they exchange bits
    const int block = first + static_cast<int>(threadIdx.x) / 4;
    uint32_t word[2][4];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int k = block * kBlock + 32 * t + 16 * u;
      const int bytes = max(0, min(16, a.k - k));
      const uint4 value = a.aligned && bytes == 16 ? *reinterpret_cast<const uint4*>(from + k) : gather16(from + k, bytes);
      word[u][0] = value.x;
      word[u][1] = value.y;
      word[u][2] = value.z;
      word[u][3] = value.w;
    }
    for (int plane = 0; plane < p.a_bits; ++plane) {
      const int shift = a.bipolar ? 7 : plane;  // -1 has its top bit set, +1 has not
      uint32_t part[4];                         // of words 0 ... 3 of the block
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        part[i] = (word[0][i] >> shift & 0x01010101u) << place | (word[1][i] >> shift & 0x01010101u) << (4 + place);
      }
      uint32_t even = high ? part[2] : part[0];
      uint32_t uneven = high ? part[3] : part[1];
      even |= __shfl_xor_sync(0xFFFFFFFFu, high ? part[0] : part[2], 2);
      uneven |= __shfl_xor_sync(0xFFFFFFFFu, high ? part[1] : part[3], 2);
      const uint32_t own = (odd ? uneven : even) | __shfl_xor_sync(0xFFFFFFFFu, odd ? even : uneven, 1);
      if (block < blocks) {
        *reinterpret_cast<uint32_t*>(planes + (plane * static_cast<int64_t>(a.m) + row) * p.stride + block * 16 + t * 4) = own;
      }
      const uint32_t counted = static_cast<uint32_t>(__popc(own)) << plane;
      sum += p.a_negative && plane == p.a_bits - 1 ? 0u - counted : counted;
    }
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
