// Packed weights from shared memory to registers, and activations from any address.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.cuh"
#include "cuda/unpack.cuh"

namespace ulp::cuda {

// A lane's words of one strip and block.
template <int kBits>
__device__ inline Words<kBits> load_words(uint32_t strip, int lane) {
  Words<kBits> words;
#pragma unroll
  for (int piece = 0; piece < Words<kBits>::kCount / 4; ++piece) {
    const uint4 value = ptx::load_shared4(strip + word_offset<kBits>(lane, 4 * piece));
    words.word[4 * piece] = value.x;
    words.word[4 * piece + 1] = value.y;
    words.word[4 * piece + 2] = value.z;
    words.word[4 * piece + 3] = value.w;
  }
  if constexpr (Words<kBits>::kCount % 4 != 0) {
    constexpr int kLast = Words<kBits>::kOne;
    const uint2 value = ptx::load_shared2(strip + word_offset<kBits>(lane, kLast));
    words.word[kLast] = value.x;
    words.word[kLast + 1] = value.y;
  }
  return words;
}

// Loads 16 bytes of activations byte by byte, from any address; those from `bytes` on are zero.
__device__ inline uint4 gather16(const unsigned char* from, int bytes) {
  uint32_t word[4] = {};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if (i < bytes) word[i / 4] |= static_cast<uint32_t>(from[i]) << (8 * (i % 4));
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

}  // namespace ulp::cuda
