// Sizes of the kernels' tiles, for the kernels and for the host code that chooses among them.
#pragma once

#include <cstdint>

#include "cuda/layout.h"

namespace ulp::cuda {

// The tensor cores' types: both operands are of one type, but u8 means unsigned activations and signed weights.
enum class Unit { s8, u8, s4, b1 };

// Blocks of k in a stage of a 1-bit kernel, so that a row of activations has 128 bytes as for bytes.
constexpr int kPlaneBlocks = 8;
constexpr int stage_blocks(Unit unit) { return unit == Unit::b1 ? kPlaneBlocks : 1; }

// gemm_mma.cuh: how the warps of a thread block divide a tile.
template <int kWarpsChannels_, int kWarpsTokens_, int kWarpsK_, int kStrips_, int kColumns_>
struct MmaTile {
  static constexpr int kWarpsChannels = kWarpsChannels_;
  static constexpr int kWarpsTokens = kWarpsTokens_;
  static constexpr int kWarpsK = kWarpsK_;
  static constexpr int kStrips = kStrips_;    // per warp, 16 channels each
  static constexpr int kColumns = kColumns_;  // fragments of 8 tokens per warp
  static constexpr int kThreads = 32 * kWarpsChannels * kWarpsTokens * kWarpsK;
  static constexpr int kTileStrips = kWarpsChannels * kStrips;
  static constexpr int kChannels = kTileStrips * kStrip;
  static constexpr int kTokens = kWarpsTokens * kColumns * 8;
  static_assert(kPanelStrips % kTileStrips == 0, "a tile lies within a panel");

  static constexpr int weight_bytes(int bits, int blocks) { return kWarpsK * blocks * kTileStrips * strip_bytes(bits); }
  static constexpr int stage_bytes(int bits, int blocks) { return weight_bytes(bits, blocks) + kWarpsK * kTokens * kBlock; }
  // What overlays the stages at the end: the sums of all warps of k but the first, which are added there; then, of each other warp, the
  // sums of eight tokens, from row to row 4 words more than its channels, against bank conflicts.
  static constexpr int kPitch = (kStrips * kStrip + 4) * 4;  // bytes
  static constexpr int added_bytes() { return (kWarpsK - 1) * kChannels * kTokens * 4; }
  static constexpr int exchange_bytes() { return added_bytes() + kWarpsChannels * kWarpsTokens * 8 * kPitch; }
};

using MmaSmall = MmaTile<4, 1, 2, 1, 2>;   // 64 channels x 16 tokens
using MmaMedium = MmaTile<4, 1, 2, 1, 8>;  // 64 x 64
using MmaLarge = MmaTile<4, 2, 1, 2, 8>;   // 128 x 128
// For planes, whose steps of k are long: their warps do not divide k.
using MmaPlanesSmall = MmaTile<4, 1, 1, 1, 2>;   // 64 x 16
using MmaPlanesMedium = MmaTile<4, 2, 1, 1, 4>;  // 64 x 64

constexpr int kMaxMmaStages = 6;

// Of the small kernels before and behind a product.
constexpr int kReduceThreads = 256;

// gemm_sm90.cuh: two warpgroups of 64 channels each.
constexpr int kSm90Threads = 384;
constexpr int kSm90ConsumerWarps = 8;
constexpr int kSm90MaxStages = 16;  // 1-bit weights need that many to have enough bytes under way
constexpr int kSm90MaxSplits = 8;   // the largest cluster that every Hopper can place
constexpr int kSm90TokenGroup = 8;  // neighbouring token tiles that are computed together, so that both operands of a wave stay in L2

constexpr int sm90_stage_bytes(int bits, int tokens, int blocks) { return tokens * kBlock + blocks * kPanelStrips * strip_bytes(bits); }
constexpr int sm90_barrier_bytes() { return 2 * 8 * kSm90MaxStages; }

// conv_sm90.cuh: a stage of a convolution is announced when the copies of so many later ones have been started. As consumers keep a stage
// until they have the next one, the ring must have two more than that.
constexpr int kConvLag = 2;

// The columns of one wgmma. More tokens take several instructions; as the A operand is in registers, nothing is read twice.
constexpr int sm90_columns(int tokens) { return tokens < 64 ? tokens : 64; }

// The widest tile, in tokens, that can be split in k.
constexpr int kSm90SplitTokens = 64;
// Rows of results that pass through shared memory together: all of them if the blocks of a cluster add them.
constexpr int sm90_staged(int tokens) { return tokens <= kSm90SplitTokens ? tokens : 32; }
// Bytes from row to row: the sums of 64 channels, and 4 words of padding against bank conflicts.
constexpr int kSm90Pitch = (64 + 4) * 4;
constexpr int sm90_exchange_bytes(int tokens) { return 2 * sm90_staged(tokens) * kSm90Pitch; }
constexpr int sm90_shared_bytes(int bits, int tokens, int blocks, int stages) {
  return stages * sm90_stage_bytes(bits, tokens, blocks) + sm90_barrier_bytes() + sm90_exchange_bytes(tokens);
}

// The largest K of one accumulator for any weights and activations (unpack.cuh): a multiple of kBlock.
constexpr int64_t kMaxSplitK = 65536;
static_assert(kMaxSplitK * 128 * 255 <= INT32_MAX && kMaxSplitK % kBlock == 0);

}  // namespace ulp::cuda
