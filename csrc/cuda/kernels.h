// THE table of kernels: one row makes a kernel selectable, tested and benchmarked. Each row's functions are in the file of its name.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "cuda/arguments.h"
#include "cuda/tiles.h"

struct CUtensorMap_st;  // CUtensorMap of <cuda.h>

namespace ulp::cuda {

using MmaKernel = void (*)(Arguments);
using Sm90Kernel = void (*)(CUtensorMap_st, Arguments);

// The compiled kernel for weights of `bits` bits: 1 ... 8, mma_s4 and the 1-bit kernels 1 ... 4.
MmaKernel mma_s4_128x128(int bits);
MmaKernel mma_s4_64x64(int bits);
MmaKernel mma_s4_64x16(int bits);
MmaKernel mma_s8_128x128(int bits);
MmaKernel mma_s8_64x64(int bits);
MmaKernel mma_s8_64x16(int bits);
MmaKernel mma_b1_128x128(int bits);
MmaKernel mma_b1_64x64(int bits);
MmaKernel mma_b1_64x16(int bits);
// unsigned_a: activations are unsigned 8-bit ones.
Sm90Kernel wgmma_128x256(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x128(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x64(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x32(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x16(bool unsigned_a, int bits);
Sm90Kernel wgmma_b1_128x256(bool unsigned_a, int bits);
Sm90Kernel wgmma_b1_128x128(bool unsigned_a, int bits);
Sm90Kernel wgmma_b1_128x64(bool unsigned_a, int bits);

enum class Family { wgmma, wgmma_b1, mma_s4, mma_b1, mma_s8 };

struct KernelRow {
  std::string_view name;  // family, channels x tokens
  Family family;
  MmaKernel (*mma)(int bits);                      // null in a wgmma row
  Sm90Kernel (*wgmma)(bool unsigned_a, int bits);  // null in an mma row
  int channels;
  int tokens;
  int threads;
  int warps_k;         // steps of k in a stage
  int exchange_bytes;  // mma only: shared memory that sums need at the end
  int max_splits;

  constexpr bool hopper() const { return wgmma != nullptr; }
  constexpr bool planes() const { return family == Family::wgmma_b1 || family == Family::mma_b1; }
  constexpr int blocks() const { return planes() ? stage_blocks(Unit::b1) : 1; }  // of k in a step
  constexpr int step() const { return blocks() * kBlock; }
  constexpr int shared_bytes(int bits, int stages) const {
    if (hopper()) return sm90_shared_bytes(bits, tokens, blocks(), stages);
    const int ring = stages * warps_k * (blocks() * channels / kStrip * strip_bytes(bits) + tokens * kBlock);
    return ring > exchange_bytes ? ring : exchange_bytes;
  }
};

template <typename Tile>
constexpr KernelRow mma_row(std::string_view name, Family family, MmaKernel (*kernel)(int bits)) {
  // Slices of a split are added by a kernel of their own, as many as it takes to keep the sums in range.
  return {name, family, kernel, nullptr, Tile::kChannels, Tile::kTokens, Tile::kThreads, Tile::kWarpsK, Tile::exchange_bytes(), INT32_MAX};
}
constexpr KernelRow wgmma_row(std::string_view name, Family family, int tokens, Sm90Kernel (*kernel)(bool unsigned_a, int bits)) {
  const int max_splits = tokens <= kSm90SplitTokens ? kSm90MaxSplits : 1;
  return {name, family, nullptr, kernel, kPanel, tokens, kSm90Threads, 1, 0, max_splits};
}

// Best first.
inline constexpr std::array kKernels = {
    wgmma_row("wgmma_128x256", Family::wgmma, 256, wgmma_128x256),
    wgmma_row("wgmma_128x128", Family::wgmma, 128, wgmma_128x128),
    wgmma_row("wgmma_128x64", Family::wgmma, 64, wgmma_128x64),
    wgmma_row("wgmma_128x32", Family::wgmma, 32, wgmma_128x32),
    wgmma_row("wgmma_128x16", Family::wgmma, 16, wgmma_128x16),
    wgmma_row("wgmma_b1_128x256", Family::wgmma_b1, 256, wgmma_b1_128x256),
    wgmma_row("wgmma_b1_128x128", Family::wgmma_b1, 128, wgmma_b1_128x128),
    wgmma_row("wgmma_b1_128x64", Family::wgmma_b1, 64, wgmma_b1_128x64),
    mma_row<MmaLarge>("mma_s4_128x128", Family::mma_s4, mma_s4_128x128),
    mma_row<MmaMedium>("mma_s4_64x64", Family::mma_s4, mma_s4_64x64),
    mma_row<MmaSmall>("mma_s4_64x16", Family::mma_s4, mma_s4_64x16),
    mma_row<MmaLarge>("mma_b1_128x128", Family::mma_b1, mma_b1_128x128),
    mma_row<MmaPlanesMedium>("mma_b1_64x64", Family::mma_b1, mma_b1_64x64),
    mma_row<MmaPlanesSmall>("mma_b1_64x16", Family::mma_b1, mma_b1_64x16),
    mma_row<MmaLarge>("mma_s8_128x128", Family::mma_s8, mma_s8_128x128),
    mma_row<MmaMedium>("mma_s8_64x64", Family::mma_s8, mma_s8_64x64),
    mma_row<MmaSmall>("mma_s8_64x16", Family::mma_s8, mma_s8_64x16),
};

}  // namespace ulp::cuda
