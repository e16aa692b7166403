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

// The compiled kernel for weights of `bits` bits: 1 ... 8, mma_s4 1 ... 4.
MmaKernel mma_s4_128x128(int bits);
MmaKernel mma_s4_64x64(int bits);
MmaKernel mma_s4_64x16(int bits);
MmaKernel mma_s8_128x128(int bits);
MmaKernel mma_s8_64x64(int bits);
MmaKernel mma_s8_64x16(int bits);
// unsigned_a: activations are unsigned 8-bit ones.
Sm90Kernel wgmma_128x256(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x128(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x64(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x32(bool unsigned_a, int bits);
Sm90Kernel wgmma_128x16(bool unsigned_a, int bits);

enum class Family { wgmma, mma_s4, mma_s8 };

struct KernelRow {
  std::string_view name;  // family, channels x tokens
  Family family;
  MmaKernel (*mma)(int bits);                      // null in a wgmma row
  Sm90Kernel (*wgmma)(bool unsigned_a, int bits);  // null in an mma row
  int channels;
  int tokens;
  int threads;
  int warps_k;         // blocks of k in a stage
  int exchange_bytes;  // mma only: shared memory that sums need at the end
  int max_splits;

  constexpr int stage_bytes(int bits) const {
    return family == Family::wgmma ? sm90_stage_bytes(bits, tokens) : warps_k * (channels / kStrip * strip_bytes(bits) + tokens * kBlock);
  }
  constexpr int shared_bytes(int bits, int stages) const {
    if (family == Family::wgmma) return sm90_shared_bytes(bits, tokens, stages);
    const int ring = stages * stage_bytes(bits);
    return ring > exchange_bytes ? ring : exchange_bytes;
  }
};

template <typename Tile>
constexpr KernelRow mma_row(std::string_view name, Family family, MmaKernel (*kernel)(int bits)) {
  // Slices of a split are added by a kernel of their own, as many as it takes to keep the sums in range.
  return {name, family, kernel, nullptr, Tile::kChannels, Tile::kTokens, Tile::kThreads, Tile::kWarpsK, Tile::exchange_bytes(), INT32_MAX};
}
constexpr KernelRow wgmma_row(std::string_view name, int tokens, Sm90Kernel (*kernel)(bool unsigned_a, int bits)) {
  const int max_splits = tokens <= kSm90SplitTokens ? kSm90MaxSplits : 1;
  return {name, Family::wgmma, nullptr, kernel, kPanel, tokens, kSm90Threads, 1, 0, max_splits};
}

// Best first.
inline constexpr std::array kKernels = {
    wgmma_row("wgmma_128x256", 256, wgmma_128x256),
    wgmma_row("wgmma_128x128", 128, wgmma_128x128),
    wgmma_row("wgmma_128x64", 64, wgmma_128x64),
    wgmma_row("wgmma_128x32", 32, wgmma_128x32),
    wgmma_row("wgmma_128x16", 16, wgmma_128x16),
    mma_row<MmaLarge>("mma_s4_128x128", Family::mma_s4, mma_s4_128x128),
    mma_row<MmaMedium>("mma_s4_64x64", Family::mma_s4, mma_s4_64x64),
    mma_row<MmaSmall>("mma_s4_64x16", Family::mma_s4, mma_s4_64x16),
    mma_row<MmaLarge>("mma_s8_128x128", Family::mma_s8, mma_s8_128x128),
    mma_row<MmaMedium>("mma_s8_64x64", Family::mma_s8, mma_s8_64x64),
    mma_row<MmaSmall>("mma_s8_64x16", Family::mma_s8, mma_s8_64x16),
};

}  // namespace ulp::cuda
