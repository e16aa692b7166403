// The product with mma.sync, for every architecture from Turing: on 4-bit tensor cores (sm_75 to 89) if both operands fit, else on 8-bit
// ones. Weights are the A operand, 16 channels by k, unpacked in registers. Activations are the B operand, k by 8 rows of a ("tokens"),
// loaded by ldmatrix from swizzled shared memory. So a result fragment is 16 channels x 8 tokens.
//
// A thread block computes a tile of kChannels x kTokens (tiles.h). Its warps divide channels, tokens and, in small tiles, the blocks of k
// among them; sums of different k are added in shared memory at the end. Shared memory holds a ring of `stages`, each with kWarpsK blocks
// of k:
//
//     weights      [warp of k][strip][strip_bytes]       as in global memory: a warp loads 512 consecutive bytes
//     activations  [warp of k][token][8 pieces of 16 bytes, piece c of token r at c ^ (r % 8)]
//
// With the pieces of each 128-byte row permuted, ldmatrix reads the same piece of eight rows without a bank conflict.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/load.cuh"
#include "cuda/ptx.cuh"
#include "cuda/tiles.h"
#include "cuda/unpack.cuh"
#include "cuda/with_bits.h"

namespace ulp::cuda {

// The part of the product that a thread block computes.
template <typename Tile>
struct MmaPlace {
  const unsigned char* weights;  // of its first strip, block 0
  int64_t weights_stride;        // bytes from block to block
  int strips;                    // existing ones of kTileStrips
  int channel;
  int token;
  int block_begin;
  int block_end;

  __device__ MmaPlace(const Arguments& p, int bits) {
    const int tiles = (p.n + Tile::kChannels - 1) / Tile::kChannels;
    channel = static_cast<int>(blockIdx.x % tiles) * Tile::kChannels;
    token = static_cast<int>(blockIdx.x / tiles) * Tile::kTokens;
    const int blocks = (p.k + kBlock - 1) / kBlock;
    block_begin = static_cast<int>(blockIdx.y) * p.blocks_per_split;
    block_end = min(block_begin + p.blocks_per_split, blocks);
    const int first = channel / kStrip;
    const int panel = first / kPanelStrips;
    const int all = (p.n + kStrip - 1) / kStrip;
    const int in_panel = min(kPanelStrips, all - panel * kPanelStrips);
    strips = min(Tile::kTileStrips, all - first);
    weights_stride = static_cast<int64_t>(in_panel) * strip_bytes(bits);
    weights = p.weights + static_cast<int64_t>(panel) * kPanelStrips * blocks * strip_bytes(bits) +
              static_cast<int64_t>(first % kPanelStrips) * strip_bytes(bits);
  }
};

// Loads 16 bytes of activations byte by byte, from any address; those from `bytes` on are zero.
__device__ inline uint4 gather16(const unsigned char* from, int bytes) {
  uint32_t word[4] = {};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if (i < bytes) word[i / 4] |= static_cast<uint32_t>(from[i]) << (8 * (i % 4));
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// Starts the copies of one stage: kWarpsK blocks of k from `block` on.
template <typename Tile, int kBits>
__device__ inline void fetch_stage(const Arguments& p, const MmaPlace<Tile>& place, int block, uint32_t stage) {
  constexpr int kPieces = Tile::kTileStrips * strip_bytes(kBits) / 16;
  for (int at = static_cast<int>(threadIdx.x); at < Tile::kWarpsK * kPieces; at += Tile::kThreads) {
    const int slab = at / kPieces;
    const int piece = at % kPieces;
    const bool there = block + slab < place.block_end && piece * 16 < place.strips * strip_bytes(kBits);
    const unsigned char* from = there ? place.weights + (block + slab) * place.weights_stride + piece * 16 : p.weights;
    ptx::copy_async16(stage + at * 16, from, there ? 16 : 0);
  }
  const uint32_t activations = stage + Tile::weight_bytes(kBits);
  for (int at = static_cast<int>(threadIdx.x); at < Tile::kWarpsK * Tile::kTokens * 8; at += Tile::kThreads) {
    const int token = at / 8 % Tile::kTokens;
    const int piece = at % 8;
    const int slab = at / 8 / Tile::kTokens;
    const int k = (block + slab) * kBlock + piece * 16;
    const int row = place.token + token;
    const int bytes = row < p.m && block + slab < place.block_end ? max(0, min(16, p.k - k)) : 0;
    const unsigned char* from = bytes > 0 ? p.a + row * p.a_stride + k : p.a;
    const uint32_t to = activations + (at / 8) * kBlock + ((piece ^ (token % 8)) * 16);
    if (p.aligned) {
      ptx::copy_async16(to, from, bytes);
    } else {
      ptx::store_shared4(to, gather16(from, bytes));
    }
  }
}

// acc += the products of one block of k in shared memory.
template <typename Tile, int kBits, bool kNibbles>
__device__ inline void multiply_block(const Arguments& p, uint32_t weights, uint32_t activations, int lane,
                                      int (&acc)[Tile::kStrips][Tile::kColumns][4]) {
  Words<kBits> words[Tile::kStrips];
#pragma unroll
  for (int strip = 0; strip < Tile::kStrips; ++strip) words[strip] = load_words<kBits>(weights + strip * strip_bytes(kBits), lane);
  const int row = lane % 8;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    constexpr int kProducts = kNibbles ? 1 : 2;  // instructions per 64 k
    uint32_t a[Tile::kStrips][kProducts][4];
#pragma unroll
    for (int strip = 0; strip < Tile::kStrips; ++strip) {
      if constexpr (kNibbles) {
        unpack_nibbles(words[strip], pair, p.bipolar, a[strip][0]);
      } else {
        unpack_bytes(words[strip], 2 * pair, p.bipolar, a[strip][0]);
        unpack_bytes(words[strip], 2 * pair + 1, p.bipolar, a[strip][1]);
      }
    }
#pragma unroll
    for (int column = 0; column < Tile::kColumns; ++column) {
      uint32_t b[4];
      ptx::load_matrix4(b, activations + (8 * column + row) * kBlock + (((4 * pair + lane / 8) ^ row) * 16));
      if constexpr (kNibbles) {
        const uint32_t b0 = interleave_nibbles(b[0], b[1]) ^ p.flip;
        const uint32_t b1 = interleave_nibbles(b[2], b[3]) ^ p.flip;
#pragma unroll
        for (int strip = 0; strip < Tile::kStrips; ++strip) ptx::mma_s4(acc[strip][column], a[strip][0], b0, b1);
      } else {
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const uint32_t b0 = b[2 * step] ^ p.flip;
          const uint32_t b1 = b[2 * step + 1] ^ p.flip;
#pragma unroll
          for (int strip = 0; strip < Tile::kStrips; ++strip) ptx::mma_s8(acc[strip][column], a[strip][step], b0, b1);
        }
      }
    }
  }
}

// Waits until at most `pending` groups of copies are under way. A switch, as the instruction takes a constant.
__device__ inline void wait_copies_up_to(int pending) {
  switch (pending) {
    case 0:
      return ptx::wait_copies<0>();
    case 1:
      return ptx::wait_copies<1>();
    case 2:
      return ptx::wait_copies<2>();
    case 3:
      return ptx::wait_copies<3>();
    default:
      return ptx::wait_copies<4>();
  }
}
static_assert(kMaxMmaStages - 2 == 4);

template <typename Tile, int kBits, bool kNibbles>
__global__ void __launch_bounds__(Tile::kThreads) gemm_mma(const __grid_constant__ Arguments p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kNibbles) {
    __trap();  // there is no such unit, and pick.cpp never selects this
    return;
  }
#endif
  const MmaPlace<Tile> place(p, kBits);
  const uint32_t shared = ptx::shared_base();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_channels = warp % Tile::kWarpsChannels;
  const int warp_tokens = warp / Tile::kWarpsChannels % Tile::kWarpsTokens;
  const int warp_k = warp / (Tile::kWarpsChannels * Tile::kWarpsTokens);
  constexpr int kStage = Tile::stage_bytes(kBits);
  const uint32_t own_weights = (warp_k * Tile::kTileStrips + warp_channels * Tile::kStrips) * strip_bytes(kBits);
  const uint32_t own_activations = Tile::weight_bytes(kBits) + (warp_k * Tile::kTokens + warp_tokens * Tile::kColumns * 8) * kBlock;

  // |acc| <= K of the split * 128 * 128 (nibbles: 8 * 8) < 2^31, as blocks_per_split * kBlock <= kMaxSplitK (unpack.cuh).
  int acc[Tile::kStrips][Tile::kColumns][4] = {};

  const int steps = (place.block_end - place.block_begin + Tile::kWarpsK - 1) / Tile::kWarpsK;
  for (int step = 0; step < p.stages - 1; ++step) {
    if (step < steps) fetch_stage<Tile, kBits>(p, place, place.block_begin + step * Tile::kWarpsK, shared + step * kStage);
    ptx::commit_copies();
  }
  int filled = p.stages - 1;  // the stage to fill next
  int used = 0;
  for (int step = 0; step < steps; ++step) {
    wait_copies_up_to(p.stages - 2);
    __syncthreads();  // all threads' copies of this stage have landed, and no thread still reads the stage to fill next
    const int next = step + p.stages - 1;
    if (next < steps) fetch_stage<Tile, kBits>(p, place, place.block_begin + next * Tile::kWarpsK, shared + filled * kStage);
    ptx::commit_copies();
    if (place.block_begin + step * Tile::kWarpsK + warp_k < place.block_end) {
      const uint32_t stage = shared + used * kStage;
      multiply_block<Tile, kBits, kNibbles>(p, stage + own_weights, stage + own_activations, lane, acc);
    }
    filled = filled + 1 == p.stages ? 0 : filled + 1;
    used = used + 1 == p.stages ? 0 : used + 1;
  }
  ptx::wait_copies<0>();

  if constexpr (Tile::kWarpsK > 1) {
    // [warp of k but the first][register][thread of a warp_k]
    constexpr int kGroup = Tile::kThreads / Tile::kWarpsK;
    constexpr int kRegisters = Tile::kStrips * Tile::kColumns * 4;
    const int thread = static_cast<int>(threadIdx.x) % kGroup;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      const int value = acc[i / (4 * Tile::kColumns)][i / 4 % Tile::kColumns][i % 4];
      if (warp_k > 0) ptx::store_shared(shared + (((warp_k - 1) * kRegisters + i) * kGroup + thread) * 4, static_cast<uint32_t>(value));
    }
    __syncthreads();
    if (warp_k > 0) return;
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      int& value = acc[i / (4 * Tile::kColumns)][i / 4 % Tile::kColumns][i % 4];
#pragma unroll
      for (int other = 0; other < Tile::kWarpsK - 1; ++other) {
        value += static_cast<int>(ptx::load_shared(shared + ((other * kRegisters + i) * kGroup + thread) * 4));
      }
    }
  }

  const int channel0 = place.channel + warp_channels * Tile::kStrips * kStrip + lane / 4 * 2;
  const int token0 = place.token + warp_tokens * Tile::kColumns * 8 + lane % 4 * 2;
#pragma unroll
  for (int strip = 0; strip < Tile::kStrips; ++strip) {
    const int channel = channel0 + strip * kStrip;
    if (channel >= p.n) continue;
    if (p.splits > 1) {
      const int64_t width = (p.n + 1) / 2 * 2;
      int* slice = p.partials + static_cast<int64_t>(blockIdx.y) * p.m * width;
#pragma unroll
      for (int column = 0; column < Tile::kColumns; ++column) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = token0 + 8 * column + i;
          const int (&sum)[4] = acc[strip][column];
          if (token < p.m) *reinterpret_cast<int2*>(slice + token * width + channel) = make_int2(sum[i] >> p.shift, sum[2 + i] >> p.shift);
        }
      }
      continue;
    }
    const Channels<2> channels(p.finish, channel);
#pragma unroll
    for (int column = 0; column < Tile::kColumns; ++column) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int (&sum)[4] = acc[strip][column];
        const int token = token0 + 8 * column + i;
        const int both[2] = {sum[i] >> p.shift, sum[2 + i] >> p.shift};
        if (token < p.m) finish(p.finish, channels, token, both);
      }
    }
  }
}

// The kernel for weights of `bits` bits: 1 ... 8, for 4-bit tensor cores 1 ... 4.
template <typename Tile, bool kNibbles>
MmaKernel find_mma(int bits) {
  return with_bits<kNibbles ? 4 : 8>(bits, [](auto constant) -> MmaKernel { return gemm_mma<Tile, constant(), kNibbles>; });
}

}  // namespace ulp::cuda
