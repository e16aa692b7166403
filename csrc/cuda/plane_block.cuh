// Packing of activations to the planes of planes.cuh: a block of k at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/layout.h"
#include "cuda/load.cuh"

namespace ulp::cuda {

constexpr int kPlanesThreads = 256;

// What is packed: m rows of k bytes.
struct PlaneSource {
  const unsigned char* data;
  int64_t stride;  // bytes from row to row
  int m;
  int k;
  bool aligned;  // every row starts at a multiple of 16 bytes
  bool bipolar;
};

// The planes of a block of k of one row: put(plane, word) for word t of the block, t being the lane's number in its group of four. Lane t
// loads bytes 32 t ... 32 t + 31 (s = t) and exchanges bits with the other three, so all lanes of the warp must call it. `from` is the row.
// Returns the lane's share of the sum of what the planes hold; of bipolar rows it counts the ones.
template <typename Put>
__device__ inline uint32_t pack_block(const PlaneSource& a, const Planes& p, const unsigned char* from, int block, const Put& put) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  const bool high = (t & 2) != 0;
  const bool odd = (t & 1) != 0;
  const int place = 2 * (t & 1) + (t >> 1);  // d(s)
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
  uint32_t sum = 0;
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
    put(plane, own);
    const uint32_t counted = static_cast<uint32_t>(__popc(own)) << plane;
    sum += p.a_negative && plane == p.a_bits - 1 ? 0u - counted : counted;
  }
  return sum;
}

}  // namespace ulp::cuda
