// The table of convolution kernels: the tiles of gemm_mma.cuh and gemm_sm90.cuh over windows. Each row's function is in the file of its
// name.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "cuda/conv_arguments.h"
#include "cuda/tiles.h"

namespace ulp::cuda {

using ConvKernel = void (*)(ConvArguments);

// The largest bits of weights for 1-bit kernels: more are no faster than bytes, as every plane reads all bits of the weights.
constexpr int kMaxConvPlanes = 2;

// The compiled kernel for weights of `bits` bits: 4, on 8-bit tensor cores also 8, on 1-bit ones 1 and 2.
ConvKernel conv_wgmma_128x128(int bits);
ConvKernel conv_wgmma_128x64(int bits);
ConvKernel conv_wgmma_b1_128x128(int bits);
ConvKernel conv_s4_128x128(int bits);
ConvKernel conv_s4_64x64(int bits);
ConvKernel conv_b1_128x128(int bits);
ConvKernel conv_b1_64x64(int bits);
ConvKernel conv_s8_128x128(int bits);
ConvKernel conv_s8_64x64(int bits);

struct ConvRow {
  std::string_view name;  // tensor cores, channels x pixels
  Unit unit;              // s4: both operands are nibbles; b1: planes; u8 on Hopper, s8 elsewhere: bytes
  bool hopper;            // wgmma: slices of k are added in a cluster
  ConvKernel (*kernel)(int bits);
  int channels;
  int pixels;
  int threads;
  int warps_k;
  int exchange_bytes;  // shared memory that sums need at the end; not of wgmma

  constexpr bool planes() const { return unit == Unit::b1; }
  constexpr int step() const { return stage_blocks(unit) * kBlock; }  // of k
  constexpr int max_stages() const { return hopper ? kSm90MaxStages : kMaxMmaStages; }
  constexpr int min_stages() const { return hopper ? kConvLag + 2 : 2; }
  constexpr int shared_bytes(int bits, int stages) const {
    if (hopper) return sm90_shared_bytes(bits, pixels, stage_blocks(unit), stages);
    const int ring = stages * warps_k * (stage_blocks(unit) * channels / kStrip * strip_bytes(bits) + pixels * kBlock);
    return ring > exchange_bytes ? ring : exchange_bytes;
  }
};

template <typename Tile>
constexpr ConvRow conv_row(std::string_view name, Unit unit, ConvKernel (*kernel)(int bits)) {
  return {name, unit, false, kernel, Tile::kChannels, Tile::kTokens, Tile::kThreads, Tile::kWarpsK, Tile::exchange_bytes()};
}
constexpr ConvRow conv_wgmma_row(std::string_view name, Unit unit, int pixels, ConvKernel (*kernel)(int bits)) {
  return {name, unit, true, kernel, kPanel, pixels, kSm90Threads, 1, 0};
}

// Best first.
inline constexpr std::array kConvKernels = {
    conv_wgmma_row("conv_wgmma_128x128", Unit::u8, 128, conv_wgmma_128x128),
    conv_wgmma_row("conv_wgmma_128x64", Unit::u8, 64, conv_wgmma_128x64),
    conv_wgmma_row("conv_wgmma_b1_128x128", Unit::b1, 128, conv_wgmma_b1_128x128),
    conv_row<MmaLarge>("conv_s4_128x128", Unit::s4, conv_s4_128x128),
    conv_row<MmaMedium>("conv_s4_64x64", Unit::s4, conv_s4_64x64),
    conv_row<MmaLarge>("conv_b1_128x128", Unit::b1, conv_b1_128x128),
    conv_row<MmaPlanesMedium>("conv_b1_64x64", Unit::b1, conv_b1_64x64),
    conv_row<MmaLarge>("conv_s8_128x128", Unit::s8, conv_s8_128x128),
    conv_row<MmaMedium>("conv_s8_64x64", Unit::s8, conv_s8_64x64),
};

}  // namespace ulp::cuda
