// The product with mma.sync, for every architecture from Turing: on 4-bit tensor cores (sm_75 to 89) if both operands fit, on 1-bit ones
// (sm_80 to 90) by planes.cuh, else on 8-bit ones. Weights are the A operand, 16 channels by k, unpacked in registers. Activations are the
// B operand, k by 8 rows of a ("tokens"), loaded by ldmatrix from swizzled shared memory. So a result fragment is 16 channels x 8 tokens.
//
// A thread block computes a tile of kChannels x kTokens (tiles.h). Its warps divide channels, tokens and, in small tiles, the blocks of k
// among them; sums of different k are added in shared memory at the end. Shared memory holds a ring of `stages`, each with kWarpsK times
// stage_blocks blocks of k:
//
//     weights      [warp of k][block][strip][strip_bytes]  as in global memory: a warp loads 512 consecutive bytes
//     activations  [warp of k][token][8 pieces of 16 bytes, piece c of token r at c ^ (r % 8)]
//
// A 1-bit kernel has eight blocks of one plane of the activations there, and passes over its k once per pair of planes.
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
#include "cuda/planes.cuh"
#include "cuda/ptx.cuh"
#include "cuda/tiles.h"
#include "cuda/unpack.cuh"
#include "cuda/with_bits.h"

namespace ulp::cuda {

// The part of the product that a thread block computes.
template <typename Tile, int kBlocks>
struct MmaPlace {
  const unsigned char* weights;  // of its first strip, block 0
  int64_t weights_stride;        // bytes from block to block
  int strips;                    // existing ones of kTileStrips
  int channel;
  int token;
  int begin;  // in steps of kBlocks blocks of k
  int end;
  int block_end;  // where K or the split ends, in blocks

  __device__ MmaPlace(const Arguments& p, int bits) {
    const int tiles = (p.n + Tile::kChannels - 1) / Tile::kChannels;
    channel = static_cast<int>(blockIdx.x % tiles) * Tile::kChannels;
    token = static_cast<int>(blockIdx.x / tiles) * Tile::kTokens;
    const int blocks = (p.k + kBlock - 1) / kBlock;
    begin = static_cast<int>(blockIdx.y) * p.steps_per_split;
    end = min(begin + p.steps_per_split, (blocks + kBlocks - 1) / kBlocks);
    block_end = min(end * kBlocks, blocks);
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

// The pieces of 16 bytes of activations that a thread copies to a stage, and the token of each.
template <typename Tile>
struct MmaCopies {
  static constexpr int kCount = Tile::kWarpsK * Tile::kTokens * 8 / Tile::kThreads;
  static_assert(kCount * Tile::kThreads == Tile::kWarpsK * Tile::kTokens * 8);
  __device__ static int token(int i) { return (static_cast<int>(threadIdx.x) + i * Tile::kThreads) / 8 % Tile::kTokens; }
};

// The rows of a matrix, or of a plane of it: row_bytes from a on, p.a_stride apart. What takes its place, with rows_of, lane_channels and
// finish_lane of its arguments, makes another product (conv_rows.cuh).
struct MatrixRows {
  const unsigned char* a;
  int row_bytes;

  // Starts the copy number i of a stage: 16 bytes of a row from `offset` on, those behind its end being zero, to shared memory.
  __device__ void copy(const Arguments& p, int /*i*/, int row, int offset, bool there, uint32_t to) const {
    const int bytes = row < p.m && there ? max(0, min(16, row_bytes - offset)) : 0;
    const unsigned char* from = bytes > 0 ? a + row * p.a_stride + offset : p.a;
    if (p.aligned) {
      ptx::copy_async16(to, from, bytes);
    } else {
      ptx::store_shared4(to, gather16(from, bytes));
    }
  }
};

template <typename Tile, int kBlocks>
__device__ inline MatrixRows rows_of(const Arguments& p, const MmaPlace<Tile, kBlocks>&) {
  return {p.a, p.k};
}

// The rows of a plane; only matrices have planes.
__device__ inline void select_plane(MatrixRows& rows, const Arguments& p, int plane) {
  rows = {p.a + static_cast<int64_t>(plane) * p.m * p.a_stride, p.planes.stride};
}

// Starts the copies of one stage: kWarpsK steps of k from `number` on.
template <typename Tile, int kBits, int kBlocks, typename Problem, typename Rows>
__device__ inline void fetch_stage(const Problem& p, const MmaPlace<Tile, kBlocks>& place, const Rows& rows, int number, uint32_t stage) {
  constexpr int kPieces = Tile::kTileStrips * strip_bytes(kBits) / 16;
  for (int at = static_cast<int>(threadIdx.x); at < Tile::kWarpsK * kBlocks * kPieces; at += Tile::kThreads) {
    const int block = number * kBlocks + at / kPieces;
    const int piece = at % kPieces;
    const bool there = block < place.block_end && piece * 16 < place.strips * strip_bytes(kBits);
    const unsigned char* from = there ? place.weights + block * place.weights_stride + piece * 16 : p.weights;
    ptx::copy_async16(stage + at * 16, from, there ? 16 : 0);
  }
  const uint32_t activations = stage + Tile::weight_bytes(kBits, kBlocks);
#pragma unroll
  for (int i = 0; i < MmaCopies<Tile>::kCount; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * Tile::kThreads;
    const int token = MmaCopies<Tile>::token(i);
    const int piece = at % 8;
    const int slab = at / 8 / Tile::kTokens;
    const uint32_t to = activations + (at / 8) * kBlock + ((piece ^ (token % 8)) * 16);
    rows.copy(p, i, place.token + token, (number + slab) * kBlock + piece * 16, number + slab < place.end, to);
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

// acc += the products of one plane of the weights and one of the activations, over `blocks` (1 ... kPlaneBlocks) blocks of k.
template <typename Tile, int kBits>
__device__ inline void multiply_planes(uint32_t weights, uint32_t activations, int lane, int plane, int blocks,
                                       int (&acc)[Tile::kStrips][Tile::kColumns][4]) {
  const int row = lane % 8;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    if (4 * pair >= blocks) break;  // blocks that do not exist are zero
    uint32_t a[Tile::kStrips][2][4];
#pragma unroll
    for (int strip = 0; strip < Tile::kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t from = weights + ((4 * pair + i) * Tile::kTileStrips + strip) * strip_bytes(kBits);
        uint32_t rows[2];
        plane_of(load_words<kBits>(from, lane), plane, rows);
        a[strip][i / 2][i % 2 * 2] = rows[0];
        a[strip][i / 2][i % 2 * 2 + 1] = rows[1];
      }
    }
#pragma unroll
    for (int column = 0; column < Tile::kColumns; ++column) {
      uint32_t b[4];
      ptx::load_matrix4(b, activations + (8 * column + row) * kBlock + (((4 * pair + lane / 8) ^ row) * 16));
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int strip = 0; strip < Tile::kStrips; ++strip) ptx::mma_b1(acc[strip][column], a[strip][step], b[2 * step], b[2 * step + 1]);
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

// The sums of a warp's eight tokens in shared memory: finished with neighbouring channels in neighbouring lanes, or stored to a slice.
template <typename Tile, typename Problem, typename Channels>
__device__ inline void mma_finish(const Problem& p, const Channels& channels, uint32_t staged, int channel, int token, int lane) {
  constexpr bool kWide = Tile::kStrips > 1;  // a row of sums for all lanes; else two half rows four tokens apart, in different banks
  static_assert(Tile::kStrips <= 2);
  if (p.splits > 1) {
    const int64_t width = (p.n + 1) / 2 * 2;
    const int own = kWide ? lane : lane % kStrip;
    int* slice = p.partials + static_cast<int64_t>(blockIdx.y) * p.m * width + channel + own;
#pragma unroll 1
    for (int at = kWide ? 0 : lane / kStrip * 4; at < (kWide ? 8 : lane / kStrip * 4 + 4); ++at) {
      const uint32_t sum = ptx::load_shared(staged + at * Tile::kPitch + own * 4);
      if (token + at < p.m && channel + own < width) slice[(token + at) * width] = static_cast<int>(sum);
    }
    return;
  }
  constexpr int kPer = Problem::kLaneChannels;
  constexpr int kLanes = Tile::kStrips * kStrip / kPer;  // of a row
  constexpr int kRows = 32 / kLanes;                     // at a time
  const int first = kWide ? lane / kLanes : kRows == 2 ? lane / kLanes * 4 : lane / 8 + lane / 4 % 2 * 4;
#pragma unroll 1
  for (int pass = 0; pass < 8 / kRows; ++pass) {
    const int at = first + (kWide ? pass * kRows : pass);
    int sum[kPer];
    load_sums(staged + at * Tile::kPitch + lane % kLanes * kPer * 4, sum);
    finish_lane(p, channels, token + at, sum);
  }
}

// The results of a warp, eight tokens at a time. They pass through shared memory, so that the code that finishes them is there once, not
// once per register.
template <typename Tile, typename Problem>
__device__ inline void mma_results(const Problem& p, uint32_t staged, int channel, int token,
                                   const int (&acc)[Tile::kStrips][Tile::kColumns][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto channels = lane_channels(p, channel + lane * Problem::kLaneChannels % (Tile::kStrips * kStrip));
  const uint32_t to = staged + lane % 4 * 2 * Tile::kPitch + lane / 4 * 8;
#pragma unroll 1
  for (int column = 0; column < Tile::kColumns; ++column) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Tile::kColumns; ++i) {
      if (i != column) continue;  // a register has no number at run time
#pragma unroll
      for (int strip = 0; strip < Tile::kStrips; ++strip) {
        const int (&sum)[4] = acc[strip][i];
        ptx::store_shared2(to + strip * kStrip * 4, make_int2(sum[0] >> p.shift, sum[2] >> p.shift));
        ptx::store_shared2(to + strip * kStrip * 4 + Tile::kPitch, make_int2(sum[1] >> p.shift, sum[3] >> p.shift));
      }
    }
    __syncwarp();
    mma_finish<Tile>(p, channels, staged, channel, token + column * 8, lane);
  }
}

// Whether the architecture that is compiled for has the unit. pick.cpp never selects a kernel without one.
constexpr bool unit_exists(Unit unit) {
#if defined(__CUDA_ARCH__)
  return unit == Unit::s8 || (unit == Unit::s4 && __CUDA_ARCH__ < 900) ||
         (unit == Unit::b1 && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ <= 900);
#else
  return unit == Unit::s8 || unit == Unit::s4 || unit == Unit::b1;
#endif
}

template <typename Tile, int kBits, Unit kUnit, typename Problem = Arguments>
__global__ void __launch_bounds__(Tile::kThreads) gemm_mma(const __grid_constant__ Problem p) {
  if constexpr (!unit_exists(kUnit)) {
    __trap();
    return;
  }
  constexpr bool kPlanes = kUnit == Unit::b1;
  constexpr int kBlocks = stage_blocks(kUnit);
  const MmaPlace<Tile, kBlocks> place(p, kBits);
  auto rows = rows_of(p, place);
  const uint32_t shared = ptx::shared_base();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_channels = warp % Tile::kWarpsChannels;
  const int warp_tokens = warp / Tile::kWarpsChannels % Tile::kWarpsTokens;
  const int warp_k = warp / (Tile::kWarpsChannels * Tile::kWarpsTokens);
  constexpr int kStage = Tile::stage_bytes(kBits, kBlocks);
  const uint32_t own_weights = (warp_k * kBlocks * Tile::kTileStrips + warp_channels * Tile::kStrips) * strip_bytes(kBits);
  const uint32_t own_activations =
      Tile::weight_bytes(kBits, kBlocks) + (warp_k * Tile::kTokens + warp_tokens * Tile::kColumns * 8) * kBlock;

  // |acc| < 2^31, as pick.cpp bounds the K of a split: bytes by 128 * 128 (nibbles: 8 * 8) per k (unpack.cuh), planes by planes.cuh.
  int acc[Tile::kStrips][Tile::kColumns][4] = {};

  const int steps = (place.end - place.begin + Tile::kWarpsK - 1) / Tile::kWarpsK;
  const int passes = kPlanes ? p.planes.w_bits * p.planes.a_bits : 1;
  PlanePairs fetched(p.planes);  // and `fetched_step` of its pass: what is fetched next
  PlanePairs pair(p.planes);     // and `step`: what is multiplied
  int fetched_step = 0;
  int step = 0;
  const auto fetch = [&](uint32_t stage) {
    if constexpr (kPlanes) select_plane(rows, p, fetched.a);
    fetch_stage<Tile, kBits>(p, place, rows, place.begin + fetched_step * Tile::kWarpsK, stage);
    if (++fetched_step == steps) {
      fetched_step = 0;
      if constexpr (kPlanes) fetched.next(p.planes);
    }
  };
  for (int stage = 0; stage < p.stages - 1; ++stage) {
    if (stage < passes * steps) fetch(shared + stage * kStage);
    ptx::commit_copies();
  }
  int filled = p.stages - 1;  // the stage to fill next
  int used = 0;
  for (int left = passes * steps; left > 0; --left) {
    wait_copies_up_to(p.stages - 2);
    __syncthreads();  // all threads' copies of this stage have landed, and no thread still reads the stage to fill next
    if (left >= p.stages) fetch(shared + filled * kStage);
    ptx::commit_copies();
    const int number = place.begin + step * Tile::kWarpsK + warp_k;
    if (number < place.end) {
      const uint32_t stage = shared + used * kStage;
      if constexpr (kPlanes) {
        const int blocks = min(kBlocks, place.block_end - number * kBlocks);
        multiply_planes<Tile, kBits>(stage + own_weights, stage + own_activations, lane, pair.w, blocks, acc);
      } else {
        multiply_block<Tile, kBits, kUnit == Unit::s4>(p, stage + own_weights, stage + own_activations, lane, acc);
      }
    }
    if (++step == steps) {
      step = 0;
      if constexpr (kPlanes) {
        const int factor = pair.next(p.planes);
#pragma unroll
        for (int i = 0; i < Tile::kStrips * Tile::kColumns * 4; ++i) {
          int& value = acc[i / (4 * Tile::kColumns)][i / 4 % Tile::kColumns][i % 4];
          value = static_cast<int>(static_cast<uint32_t>(value) * static_cast<uint32_t>(factor));  // the last factor may wrap
        }
      }
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

  if constexpr (Tile::kWarpsK == 1) __syncthreads();  // no warp still reads the stages
  const uint32_t staged = shared + Tile::added_bytes() + (warp_tokens * Tile::kWarpsChannels + warp_channels) * 8 * Tile::kPitch;
  const int channel = place.channel + warp_channels * Tile::kStrips * kStrip;
  mma_results<Tile>(p, staged, channel, place.token + warp_tokens * Tile::kColumns * 8, acc);
}

// The kernel for weights of `bits` bits: 1 ... 8, for 4-bit and 1-bit tensor cores 1 ... 4.
template <typename Tile, Unit kUnit>
MmaKernel find_mma(int bits) {
  return with_bits<kUnit == Unit::s8 ? 8 : 4>(bits, [](auto constant) -> MmaKernel { return gemm_mma<Tile, constant(), kUnit>; });
}

}  // namespace ulp::cuda
