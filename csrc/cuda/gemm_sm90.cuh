// The product on Hopper (sm_90a) with wgmma: weights unpacked in registers to signed bytes, activations in shared memory; or both as bit
// planes on the 1-bit tensor cores (planes.cuh).
//
// A thread block computes tiles of 128 channels x kTokens. One warp of the first warpgroup, the producer, copies one block of k after the
// other to a ring of stages: the weights of the tile (one contiguous bulk copy: a panel of layout.h) and the activations (a box of a tensor
// map, 128-byte swizzled). The two other warpgroups, the consumers, multiply 64 channels each. Each stage has two barriers: `full` counts
// bytes, `empty` one arrival per consumer warp. As the weights are in registers, the tensor cores read only the activations from shared
// memory: 64 of its 128 bytes per clock for tiles of 64 tokens and more. Unpacking a block of k overlaps the products of the one before.
//
// A 1-bit kernel takes eight blocks of weights and as many of one plane of the activations per stage, which is again 128 bytes per token.
// It passes over k once per pair of planes, so that one accumulator per sum is enough for any bits.
//
// Thread blocks form clusters for two reasons, which combine. *Multicast*: two blocks with neighbouring channels and the same tokens copy
// half of the activations each, for both; a stage is empty once the consumers of both have released it. *Splits*: if tiles are few (small
// M), several blocks share the k of one tile, exchange sums through distributed shared memory, and finish a part of the tile each.
// The rank in the cluster is split * multicast + channel.
//
//     shared memory    [stage][activations: token rows of 128 bytes, swizzled | weights: [block][strip]]   [barriers]   [sums, with splits]
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/load.cuh"
#include "cuda/planes.cuh"
#include "cuda/ptx_sm90.cuh"
#include "cuda/tiles.h"
#include "cuda/unpack.cuh"
#include "cuda/with_bits.h"

namespace ulp::cuda {

// The place of a tile by its number: token tiles come in groups, and within a group tokens vary fastest. `channel_tile` counts in steps of
// `multicast` tiles.
struct Sm90Tile {
  int token_tile;
  int channel_tile;

  __device__ Sm90Tile(const Arguments& p, int tile) {
    const int columns = (p.channel_tiles + p.multicast - 1) / p.multicast;
    const int group = tile / (kSm90TokenGroup * columns);
    const int in_group = tile % (kSm90TokenGroup * columns);
    const int tokens = min(kSm90TokenGroup, p.token_tiles - group * kSm90TokenGroup);
    token_tile = group * kSm90TokenGroup + in_group % tokens;
    channel_tile = in_group / tokens;
  }
};

// A position in the ring of stages, and the parity of its barriers' phase.
struct Sm90Ring {
  int stage = 0;
  uint32_t phase = 0;

  __device__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// A thread block: its place in the cluster and its shared memory. k is counted in steps of kBlocks blocks.
template <int kBits, int kTokens, int kBlocks>
struct Sm90Block {
  uint32_t shared;
  uint32_t barriers;
  int rank_channel;  // in the cluster
  int rank_split;
  int cluster;
  int clusters;
  int tiles;
  int begin;
  int end;

  __device__ explicit Sm90Block(const Arguments& p) {
    shared = ptx::shared_base();
    barriers = shared + p.stages * sm90_stage_bytes(kBits, kTokens, kBlocks);
    const int size = p.multicast * p.splits;
    const int rank = static_cast<int>(ptx::cluster_rank());
    rank_channel = rank % p.multicast;
    rank_split = rank / p.multicast;
    cluster = static_cast<int>(blockIdx.x) / size;
    clusters = static_cast<int>(gridDim.x) / size;
    tiles = p.token_tiles * ((p.channel_tiles + p.multicast - 1) / p.multicast);
    begin = rank_split * p.steps_per_split;
    end = min(begin + p.steps_per_split, (p.k + kBlocks * kBlock - 1) / (kBlocks * kBlock));
  }
  __device__ uint32_t full(int stage) const { return barriers + 16 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 16 * stage + 8; }
  __device__ uint32_t activations(int stage) const { return shared + stage * sm90_stage_bytes(kBits, kTokens, kBlocks); }
  __device__ uint32_t weights(int stage) const { return activations(stage) + kTokens * kBlock; }
  __device__ uint32_t exchange() const { return barriers + sm90_barrier_bytes(); }
  // The panel of weights that this block multiplies. It may not exist if the channel tiles are not a multiple of the cluster.
  __device__ int panel(const Arguments& p, const Sm90Tile& tile) const { return tile.channel_tile * p.multicast + rank_channel; }
  __device__ int strips(const Arguments& p, int panel) const {
    return max(0, min(kPanelStrips, (p.n + kStrip - 1) / kStrip - panel * kPanelStrips));
  }
  // Blocks of k in a step: kBlocks but in the last one.
  __device__ int blocks(const Arguments& p, int step) const { return min(kBlocks, (p.k + kBlock - 1) / kBlock - step * kBlocks); }
};

// The place of a consumer thread.
struct Sm90Consumer {
  int group;   // its warpgroup, 0 or 1: which half of the channels
  int thread;  // in the warpgroup
  int strip;   // in the panel: the warp's 16 channels
  int lane;

  __device__ Sm90Consumer()
      : group(static_cast<int>(threadIdx.x) / 128 - 1),
        thread(static_cast<int>(threadIdx.x) % 128),
        strip(static_cast<int>(threadIdx.x) / 32 - 4),
        lane(static_cast<int>(threadIdx.x) % 32) {}
  // All four warps of a warpgroup multiply together, if the first of its four strips exists.
  __device__ bool works(int strips) const { return strips > 4 * group; }
};

// The producer: one lane. A pass: over all k of the tile.
template <int kBits, int kTokens, int kBlocks>
__device__ inline void sm90_produce(const CUtensorMap* map, const Arguments& p, const Sm90Block<kBits, kTokens, kBlocks>& own, int passes) {
  const int rows = kTokens / p.multicast;  // that this block copies, to every block of its cluster with the same split
  const uint16_t ranks = static_cast<uint16_t>(((1 << p.multicast) - 1) << (own.rank_split * p.multicast));
  const int64_t blocks = (p.k + kBlock - 1) / kBlock;
  Sm90Ring ring;
  for (int number = own.cluster; number < own.tiles; number += own.clusters) {
    const Sm90Tile tile(p, number);
    const int panel = own.panel(p, tile);
    const uint32_t block_bytes = own.strips(p, panel) * strip_bytes(kBits);
    const unsigned char* weights = p.weights + panel * blocks * (kPanelStrips * strip_bytes(kBits));
    PlanePairs pair(p.planes);
#pragma unroll 1  // the producer has few registers
    for (int pass = 0; pass < passes; ++pass) {
      // A box that goes past the rows of its plane takes rows of the next plane, whose sums are not used.
      const int row = (kBlocks > 1 ? pair.a * p.m : 0) + tile.token_tile * kTokens + own.rank_channel * rows;
#pragma unroll 1
      for (int step = own.begin; step < own.end; ++step) {
        ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);  // passes at once in the first round: a new barrier counts as empty
        const uint32_t full = own.full(ring.stage);
        const uint32_t bytes = own.blocks(p, step) * block_bytes;
        ptx::barrier_arrive_expect(full, bytes + kTokens * kBlock);
        const uint32_t to = own.activations(ring.stage) + own.rank_channel * rows * kBlock;
        if (p.multicast > 1) {
          ptx::tensor_copy_multicast(to, map, step * kBlock, row, full, ranks);
        } else {
          ptx::tensor_copy(to, map, step * kBlock, row, full);
        }
        if (bytes > 0) {
          ptx::bulk_copy(own.weights(ring.stage), weights + static_cast<int64_t>(step) * kBlocks * block_bytes, bytes, full);
        }
        ring.advance(p.stages);
      }
      if constexpr (kBlocks > 1) pair.next(p.planes);
    }
  }
}

// Tells every block that fills this stage that this warp has read it.
template <typename Block>
__device__ inline void sm90_release(const Arguments& p, const Block& own, int stage, int lane) {
  __syncwarp();
  if (lane < p.multicast) ptx::barrier_arrive_remote(own.empty(stage), own.rank_split * p.multicast + lane);
}

template <int kTokens>
using Sm90Sums = int[kTokens / sm90_columns(kTokens)][sm90_columns(kTokens) / 2];

// The weights of a strip in one stage as A operands, of bytes or of one plane. Those of a block that does not exist are zero.
template <Unit kUnit, int kBits, int kTokens>
__device__ inline void sm90_weights(const Arguments& p, const Sm90Block<kBits, kTokens, stage_blocks(kUnit)>& own, int stage, int strips,
                                    int strip, int blocks, int plane, uint32_t (&a)[4][4]) {
  const int lane = Sm90Consumer().lane;
  const uint32_t from = own.weights(stage) + strip * strip_bytes(kBits);
  if constexpr (kUnit == Unit::b1) {
#pragma unroll
    for (int block = 0; block < kPlaneBlocks; ++block) {
      uint32_t rows[2] = {};
      if (block < blocks) plane_of(load_words<kBits>(from + block * strips * strip_bytes(kBits), lane), plane, rows);
      a[block / 2][block % 2 * 2] = rows[0];
      a[block / 2][block % 2 * 2 + 1] = rows[1];
    }
  } else {
    const Words<kBits> words = load_words<kBits>(from, lane);
#pragma unroll
    for (int step = 0; step < 4; ++step) unpack_bytes(words, step, p.bipolar, a[step]);
  }
}

// Waits for one step of k and starts its products. a receives the weights and must stay unchanged until the products are done.
template <Unit kUnit, int kBits, int kTokens>
__device__ inline void sm90_multiply(const Arguments& p, const Sm90Block<kBits, kTokens, stage_blocks(kUnit)>& own, const Sm90Ring& ring,
                                     int strips, int blocks, int plane, bool accumulate, uint32_t (&a)[4][4], Sm90Sums<kTokens>& acc) {
  constexpr int kColumns = sm90_columns(kTokens);
  ptx::barrier_wait(own.full(ring.stage), ring.phase);
  // A warp whose strip does not exist must multiply with the others: it takes the last strip's weights, and its sums are not used.
  const int strip = min(Sm90Consumer().strip, strips - 1);
  sm90_weights<kUnit, kBits, kTokens>(p, own, ring.stage, strips, strip, blocks, plane, a);
  // Offsets are added in units of 16 bytes to the address in the low bits; shared memory is too small for a carry.
  const uint64_t b = ptx::swizzled_descriptor(own.activations(ring.stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int part = 0; part < kTokens / kColumns; ++part) {
      ptx::wgmma<kColumns, kUnit>(acc[part], a[step], b + (part * kColumns * kBlock + step * 32) / 16, accumulate || step > 0);
    }
  }
  ptx::wgmma_commit();
}

// Only releases the stages of `steps` steps: the other block's activations still pass through this one.
template <typename Block>
__device__ inline void sm90_skip(const Arguments& p, const Block& own, Sm90Ring& ring, int steps) {
  for (int left = steps; left > 0; --left) {
    ptx::barrier_wait(own.full(ring.stage), ring.phase);
    sm90_release(p, own, ring.stage, Sm90Consumer().lane);
    ring.advance(p.stages);
  }
}

// One pass of a consumer warp over the k of a tile: adds to sums in registers, or with `fresh` begins them.
template <Unit kUnit, int kBits, int kTokens>
__device__ inline void sm90_accumulate(const Arguments& p, const Sm90Block<kBits, kTokens, stage_blocks(kUnit)>& own, Sm90Ring& ring,
                                       int strips, int plane, bool fresh, Sm90Sums<kTokens>& acc) {
  const int lane = Sm90Consumer().lane;
  // |acc| < 2^31, as pick.cpp bounds the K of a split: bytes by 128 * 255 per k (unpack.cuh), planes by planes.cuh.
  uint32_t even[4][4];  // weights of even steps; while products read these, odd is filled
  uint32_t odd[4][4];
  int before = 0;  // the stage that the products under way read
  const auto step = [&](uint32_t (&a)[4][4], int number, bool first) {
    sm90_multiply<kUnit, kBits, kTokens>(p, own, ring, strips, own.blocks(p, number), plane, !(first && fresh), a, acc);
    ptx::wgmma_wait<1>();
    if (!first) sm90_release(p, own, before, lane);
    before = ring.stage;
    ring.advance(p.stages);
  };
  for (int number = own.begin; number < own.end; number += 2) {
    step(even, number, number == own.begin);
    if (number + 1 == own.end) break;
    step(odd, number + 1, false);
  }
  ptx::wgmma_wait<0>();
  if (own.begin < own.end) sm90_release(p, own, before, lane);
}

// Writes the sums of tokens `first` ... `first` + kStaged - 1 from the fragments of a warpgroup to shared memory as [token][64 channels],
// so that whole rows are finished and stored together.
template <int kTokens, int kStaged>
__device__ inline void sm90_stage_sums(const Arguments& p, uint32_t staged, int first, int thread, const Sm90Sums<kTokens>& acc) {
  constexpr int kPart = sm90_columns(kTokens) / 8;  // fragments per array of acc
  const int lane = thread % 32;
  const uint32_t to = staged + lane % 4 * 2 * kSm90Pitch + (thread / 32 * kStrip + lane / 4 * 2) * 4;
#pragma unroll
  for (int i = 0; i < kStaged / 4; ++i) {
    const int fragment = first / 8 + i / 2;
    const int (&from)[sm90_columns(kTokens) / 2] = acc[fragment / kPart];
    const int at = fragment % kPart * 4 + i % 2;
    ptx::store_shared2(to + (i / 2 * 8 + i % 2) * kSm90Pitch, make_int2(from[at] >> p.shift, from[at + 2] >> p.shift));
  }
}

// Adds the sums that lie at the same place in block `rank` of the cluster.
__device__ inline void add_cluster_sums(uint32_t at, uint32_t rank, int (&sum)[4]) {
  const int4 more = ptx::load_cluster4(at, rank);
  sum[0] += more.x;
  sum[1] += more.y;
  sum[2] += more.z;
  sum[3] += more.w;
}
__device__ inline void add_cluster_sums(uint32_t at, uint32_t rank, int (&sum)[1]) { sum[0] += ptx::load_cluster(at, rank); }

// Finishes this split's share of the staged rows: neighbouring lanes have neighbouring channels of a row.
template <int kStaged, typename Problem, typename Block>
__device__ inline void sm90_finish(const Problem& p, const Block& own, uint32_t staged, int token, int channel, int thread) {
  constexpr int kPer = Problem::kLaneChannels;
  constexpr int kLanes = 64 / kPer;    // of a row
  constexpr int kRows = 128 / kLanes;  // at a time
  const auto channels = lane_channels(p, channel + thread % kLanes * kPer);
  for (int row = own.rank_split * kRows + thread / kLanes; row < kStaged && token + row < p.m; row += kRows * p.splits) {
    const uint32_t at = staged + row * kSm90Pitch + thread % kLanes * kPer * 4;
    int sum[kPer];
    load_sums(at, sum);
    for (int other = 1; other < p.splits; ++other) {
      const int split = (own.rank_split + other) % p.splits;
      add_cluster_sums(at, split * p.multicast + own.rank_channel, sum);
    }
    finish_lane(p, channels, token + row, sum);
  }
}

// The results of a warpgroup's half of a tile.
template <Unit kUnit, int kTokens, typename Problem, typename Block>
__device__ inline void sm90_results(const Problem& p, const Block& own, const Sm90Tile& tile, int strips, const Sm90Sums<kTokens>& acc) {
  const Sm90Consumer consumer;
  const int group = consumer.group;
  const int thread = consumer.thread;
  const bool there = consumer.works(strips);
  const uint32_t staged = own.exchange() + group * sm90_staged(kTokens) * kSm90Pitch;
  const int token = tile.token_tile * kTokens;
  const int channel = own.panel(p, tile) * kPanel + group * 64;
  if constexpr (kTokens <= kSm90SplitTokens) {
    // All rows at once, so that other blocks of the cluster can read those that they finish. With splits a cluster has one tile (pick.cpp).
    sm90_stage_sums<kTokens, kTokens>(p, staged, 0, thread, acc);
    if (p.splits > 1) {
      ptx::cluster_sync();
    } else {
      ptx::barrier_sync(1 + group, 128);
    }
    if (there) sm90_finish<kTokens>(p, own, staged, token, channel, thread);
    if (p.splits == 1) ptx::barrier_sync(1 + group, 128);  // before the next tile's sums
  } else if (there) {
    // One copy of the code that finishes. But the widest tile of planes has no registers for all sums until the end.
    [[maybe_unused]] constexpr int kCopies = kUnit == Unit::b1 && kTokens > 128 ? kTokens / sm90_staged(kTokens) : 1;
#pragma unroll kCopies
    for (int first = 0; first < kTokens; first += sm90_staged(kTokens)) {
#pragma unroll
      for (int at = 0; at < kTokens; at += sm90_staged(kTokens)) {
        if (at == first) sm90_stage_sums<kTokens, sm90_staged(kTokens)>(p, staged, at, thread, acc);
      }
      ptx::barrier_sync(1 + group, 128);
      sm90_finish<sm90_staged(kTokens)>(p, own, staged, token + first, channel, thread);
      ptx::barrier_sync(1 + group, 128);
    }
  }
}

// Barriers of the ring; every thread calls it. filled: arrivals that fill a stage.
template <typename Block>
__device__ inline void sm90_begin(const Arguments& p, const Block& own, uint32_t filled) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < p.stages; ++stage) {
      ptx::barrier_init(own.full(stage), filled);
      ptx::barrier_init(own.empty(stage), kSm90ConsumerWarps * p.multicast);
    }
    ptx::fence_barrier_init();
  }
  __syncwarp();
  ptx::cluster_sync();
}

// The consumers: one tile after the other.
template <Unit kUnit, int kBits, int kTokens, typename Problem>
__device__ inline void sm90_consume(const Problem& p, const Sm90Block<kBits, kTokens, stage_blocks(kUnit)>& own, int passes) {
  constexpr int kColumns = sm90_columns(kTokens);
  Sm90Ring ring;
  for (int number = own.cluster; number < own.tiles; number += own.clusters) {
    const Sm90Tile tile(p, number);
    const int panel = own.panel(p, tile);
    const int strips = own.strips(p, panel);
    Sm90Sums<kTokens> acc;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) acc[i / (kColumns / 2)][i % (kColumns / 2)] = 0;
    if (!Sm90Consumer().works(strips)) {
      sm90_skip(p, own, ring, passes * (own.end - own.begin));
    } else if constexpr (kUnit == Unit::b1) {
      PlanePairs pair(p.planes);
#pragma unroll 1
      for (int pass = 0; pass < passes; ++pass) {
        sm90_accumulate<kUnit, kBits, kTokens>(p, own, ring, strips, pair.w, pass == 0, acc);
        const uint32_t factor = static_cast<uint32_t>(pair.next(p.planes));
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) {
          int& value = acc[i / (kColumns / 2)][i % (kColumns / 2)];
          ptx::wgmma_keep(value);
          value = static_cast<int>(static_cast<uint32_t>(value) * factor);  // the last factor may wrap
          ptx::wgmma_keep(value);
        }
      }
    } else {
      sm90_accumulate<kUnit, kBits, kTokens>(p, own, ring, strips, 0, true, acc);
    }
    sm90_results<kUnit, kTokens>(p, own, tile, strips, acc);
  }
}

// The end of a block, every thread.
__device__ inline void sm90_end(const Arguments& p) {
  // The producer's warpgroup takes part in the cluster_sync of sm90_results.
  if (threadIdx.x < 128 && p.splits > 1) ptx::cluster_sync();
  // No block ends while others may still read its shared memory or arrive at its barriers.
  if (p.splits * p.multicast > 1) ptx::cluster_sync();
}

template <Unit kUnit, int kBits, int kTokens>
__global__ void __launch_bounds__(kSm90Threads, 1) gemm_sm90(const __grid_constant__ CUtensorMap map, const __grid_constant__ Arguments p) {
  constexpr bool kPlanes = kUnit == Unit::b1;
  const Sm90Block<kBits, kTokens, stage_blocks(kUnit)> own(p);
  const int passes = kPlanes ? p.planes.w_bits * p.planes.a_bits : 1;
  if (threadIdx.x == 0) ptx::prefetch_tensor_map(&map);
  sm90_begin(p, own, 1);
  if (threadIdx.x < 128) {
    ptx::lower_registers<kPlanes ? 56 : 40>();  // the producer of planes has more to count
    if (threadIdx.x == 0) sm90_produce(&map, p, own, passes);
    __syncwarp();
  } else {
    ptx::raise_registers<kPlanes ? 224 : 232>();
    sm90_consume<kUnit, kBits, kTokens>(p, own, passes);
  }
  sm90_end(p);
}

// The kernel for weights of `bits` bits, 1 ... 8, and activations that are unsigned bytes or signed ones.
template <int kTokens>
Sm90Kernel find_sm90(bool unsigned_a, int bits) {
  return with_bits(bits, [unsigned_a](auto constant) -> Sm90Kernel {
    return unsigned_a ? gemm_sm90<Unit::u8, constant(), kTokens> : gemm_sm90<Unit::s8, constant(), kTokens>;
  });
}

// The same on 1-bit tensor cores: weights of 1 ... 4 bits.
template <int kTokens>
Sm90Kernel find_sm90_planes(int bits) {
  return with_bits<4>(bits, [](auto constant) -> Sm90Kernel { return gemm_sm90<Unit::b1, constant(), kTokens>; });
}

}  // namespace ulp::cuda
