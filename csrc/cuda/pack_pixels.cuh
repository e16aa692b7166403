// Codes of pixels as planes (layer_finish.h), before a convolution on 1-bit tensor cores whose source lies as bytes, and sums of planes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/divide.h"
#include "cuda/layer_finish.h"
#include "cuda/load.cuh"

namespace ulp::cuda {

// 32 channels of a pixel.
struct PackPixelsWork {
  int64_t count;  // pixels x words of a plane
  Divisor words;
  const unsigned char* codes;
  int64_t pixel;
  int channels;  // of the layer; what is behind them counts as 0
  bool whole;    // every pixel starts at a multiple of 16 bytes
  CodePlanes planes;
  unsigned char* out;

  __device__ void operator()(int at) const {
    const int row = words.quotient(at);
    const int word = words.remainder(at, row);
    const unsigned char* from = codes + row * pixel;
    uint32_t parts[8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = 32 * word + 16 * half;
      const int bytes = max(0, min(16, channels - channel));
      const uint4 value = whole && bytes == 16 ? *reinterpret_cast<const uint4*>(from + channel) : gather16(from + channel, bytes);
      parts[4 * half] = value.x;
      parts[4 * half + 1] = value.y;
      parts[4 * half + 2] = value.z;
      parts[4 * half + 3] = value.w;
    }
    unsigned char* to = out + row * int64_t{planes.count} * planes.bytes + word * 4;
    for (int i = 0; i < planes.count; ++i) {
      uint32_t bits = 0;
#pragma unroll
      for (int part = 0; part < 8; ++part) {
        // The lowest bits of four bytes, side by side from bit 24 on.
        bits |= ((parts[part] >> i & 0x01010101u) * 0x01020408u >> 24 & 15) << (4 * part);
      }
      *reinterpret_cast<uint32_t*>(to + i * planes.bytes) = bits;
    }
  }
};

// The sum of a pixel's codes.
struct PlaneSumsWork {
  int64_t count;  // pixels
  const unsigned char* codes;
  CodePlanes planes;
  int channels;
  int* sums;

  __device__ void operator()(int at) const {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(codes + at * int64_t{planes.count} * planes.bytes);
    int sum = 0;
    for (int i = 0; i < planes.count; ++i, from += planes.bytes / 4) {
      int ones = 0;
      for (int channel = 0; channel < channels; channel += 32) {
        const int left = channels - channel;
        ones += __popc(from[channel / 32] & (left < 32 ? (1u << left) - 1 : 0xFFFFFFFFu));
      }
      sum += ones << i;
    }
    sums[at] = sum;
  }
};

}  // namespace ulp::cuda
