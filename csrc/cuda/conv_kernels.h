// The table of convolution kernels: the tiles of gemm_mma.cuh over windows. Each row's function is in the file of its name.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "cuda/conv_arguments.h"
#include "cuda/tiles.h"

namespace ulp::cuda {

using ConvKernel = void (*)(ConvArguments);

// The compiled kernel for weights of `bits` bits: 4, conv_s8 also 8.
ConvKernel conv_s4_128x128(int bits);
ConvKernel conv_s4_64x64(int bits);
ConvKernel conv_s8_128x128(int bits);
ConvKernel conv_s8_64x64(int bits);

struct ConvRow {
  std::string_view name;  // tensor cores, channels x pixels
  bool nibbles;
  ConvKernel (*kernel)(int bits);
  int channels;
  int pixels;
  int threads;
  int warps_k;
  int exchange_bytes;

  constexpr int shared_bytes(int bits, int stages) const {
    const int ring = stages * warps_k * (channels / kStrip * strip_bytes(bits) + pixels * kBlock);
    return ring > exchange_bytes ? ring : exchange_bytes;
  }
};

template <typename Tile>
constexpr ConvRow conv_row(std::string_view name, bool nibbles, ConvKernel (*kernel)(int bits)) {
  return {name, nibbles, kernel, Tile::kChannels, Tile::kTokens, Tile::kThreads, Tile::kWarpsK, Tile::exchange_bytes()};
}

// Best first.
inline constexpr std::array kConvKernels = {
    conv_row<MmaLarge>("conv_s4_128x128", true, conv_s4_128x128),
    conv_row<MmaMedium>("conv_s4_64x64", true, conv_s4_64x64),
    conv_row<MmaLarge>("conv_s8_128x128", false, conv_s8_128x128),
    conv_row<MmaMedium>("conv_s8_64x64", false, conv_s8_64x64),
};

}  // namespace ulp::cuda
