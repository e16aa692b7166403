// Packed weights from shared memory to registers.
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

}  // namespace ulp::cuda
