// The product on Hopper (sm_90a) with wgmma: weights unpacked in registers to signed bytes, activations in shared memory.
//
// A thread block computes tiles of 128 channels x kTokens. One warp of the first warpgroup, the producer, copies one block of k after the
// other to a ring of stages: the weights of the tile (one contiguous bulk copy: a panel of layout.h) and the activations (a box of a tensor
// map, 128-byte swizzled). The two other warpgroups, the consumers, multiply 64 channels each. Each stage has two barriers: `full` counts
// bytes, `empty` one arrival per consumer warp. As the weights are in registers, the tensor cores read only the activations from shared
// memory: 64 of its 128 bytes per clock for tiles of 64 tokens and more. Unpacking a block of k overlaps the products of the one before.
//
// Thread blocks form clusters for two reasons, which combine. *Multicast*: two blocks with neighbouring channels and the same tokens copy
// half of the activations each, for both; a stage is empty once the consumers of both have released it. *Splits*: if tiles are few (small
// M), several blocks share the k of one tile, exchange sums through distributed shared memory, and finish a part of the tile each.
// The rank in the cluster is split * multicast + channel.
//
//     shared memory    [stage][activations: token rows of 128 bytes, swizzled | weights of 8 strips]   [barriers]   [sums, with splits]
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/load.cuh"
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

// A thread block: its place in the cluster and its shared memory.
template <int kBits, int kTokens>
struct Sm90Block {
  uint32_t shared;
  uint32_t barriers;
  int rank_channel;  // in the cluster
  int rank_split;
  int cluster;
  int clusters;
  int tiles;
  int block_begin;
  int block_end;

  __device__ explicit Sm90Block(const Arguments& p) {
    shared = ptx::shared_base();
    barriers = shared + p.stages * sm90_stage_bytes(kBits, kTokens);
    const int size = p.multicast * p.splits;
    const int rank = static_cast<int>(ptx::cluster_rank());
    rank_channel = rank % p.multicast;
    rank_split = rank / p.multicast;
    cluster = static_cast<int>(blockIdx.x) / size;
    clusters = static_cast<int>(gridDim.x) / size;
    tiles = p.token_tiles * ((p.channel_tiles + p.multicast - 1) / p.multicast);
    block_begin = rank_split * p.blocks_per_split;
    block_end = min(block_begin + p.blocks_per_split, (p.k + kBlock - 1) / kBlock);
  }
  __device__ uint32_t full(int stage) const { return barriers + 16 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 16 * stage + 8; }
  __device__ uint32_t activations(int stage) const { return shared + stage * sm90_stage_bytes(kBits, kTokens); }
  __device__ uint32_t weights(int stage) const { return activations(stage) + kTokens * kBlock; }
  __device__ uint32_t exchange() const { return barriers + sm90_barrier_bytes(); }
  // The panel of weights that this block multiplies. It may not exist if the channel tiles are not a multiple of the cluster.
  __device__ int panel(const Arguments& p, const Sm90Tile& tile) const { return tile.channel_tile * p.multicast + rank_channel; }
  __device__ int strips(const Arguments& p, int panel) const {
    return max(0, min(kPanelStrips, (p.n + kStrip - 1) / kStrip - panel * kPanelStrips));
  }
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

// The producer: one lane.
template <int kBits, int kTokens>
__device__ inline void sm90_produce(const CUtensorMap* map, const Arguments& p, const Sm90Block<kBits, kTokens>& own) {
  const int rows = kTokens / p.multicast;  // that this block copies, to every block of its cluster with the same split
  const uint16_t ranks = static_cast<uint16_t>(((1 << p.multicast) - 1) << (own.rank_split * p.multicast));
  const int64_t blocks = (p.k + kBlock - 1) / kBlock;
  Sm90Ring ring;
  for (int number = own.cluster; number < own.tiles; number += own.clusters) {
    const Sm90Tile tile(p, number);
    const int panel = own.panel(p, tile);
    const uint32_t bytes = own.strips(p, panel) * strip_bytes(kBits);
    const unsigned char* weights = p.weights + panel * blocks * (kPanelStrips * strip_bytes(kBits));
#pragma unroll 1  // the producer has few registers
    for (int block = own.block_begin; block < own.block_end; ++block) {
      ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);  // passes at once in the first round: a new barrier counts as empty
      const uint32_t full = own.full(ring.stage);
      ptx::barrier_arrive_expect(full, bytes + kTokens * kBlock);
      const uint32_t to = own.activations(ring.stage) + own.rank_channel * rows * kBlock;
      const int token = tile.token_tile * kTokens + own.rank_channel * rows;
      if (p.multicast > 1) {
        ptx::tensor_copy_multicast(to, map, block * kBlock, token, full, ranks);
      } else {
        ptx::tensor_copy(to, map, block * kBlock, token, full);
      }
      if (bytes > 0) ptx::bulk_copy(own.weights(ring.stage), weights + static_cast<int64_t>(block) * bytes, bytes, full);
      ring.advance(p.stages);
    }
  }
}

// Tells every block that fills this stage that this warp has read it.
template <int kBits, int kTokens>
__device__ inline void sm90_release(const Arguments& p, const Sm90Block<kBits, kTokens>& own, int stage, int lane) {
  __syncwarp();
  if (lane < p.multicast) ptx::barrier_arrive_remote(own.empty(stage), own.rank_split * p.multicast + lane);
}

// Waits for one block of k and starts its products. a receives the weights and must stay unchanged until the products are done.
template <int kBits, int kTokens, bool kUnsigned>
__device__ inline void sm90_multiply(const Arguments& p, const Sm90Block<kBits, kTokens>& own, const Sm90Ring& ring, int strip,
                                     bool accumulate, uint32_t (&a)[4][4],
                                     int (&acc)[kTokens / sm90_columns(kTokens)][sm90_columns(kTokens) / 2]) {
  constexpr int kColumns = sm90_columns(kTokens);
  ptx::barrier_wait(own.full(ring.stage), ring.phase);
  const Words<kBits> words = load_words<kBits>(own.weights(ring.stage) + strip * strip_bytes(kBits), Sm90Consumer().lane);
#pragma unroll
  for (int step = 0; step < 4; ++step) unpack_bytes(words, step, p.bipolar, a[step]);
  // Offsets are added in units of 16 bytes to the address in the low bits; shared memory is too small for a carry.
  const uint64_t b = ptx::swizzled_descriptor(own.activations(ring.stage));
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int part = 0; part < kTokens / kColumns; ++part) {
      ptx::wgmma<kColumns, kUnsigned>(acc[part], a[step], b + (part * kColumns * kBlock + step * 32) / 16, accumulate || step > 0);
    }
  }
  ptx::wgmma_commit();
}

// Sums one tile of a consumer warp over its blocks of k, in registers.
template <int kBits, int kTokens, bool kUnsigned>
__device__ inline void sm90_accumulate(const Arguments& p, const Sm90Block<kBits, kTokens>& own, Sm90Ring& ring, int strips,
                                       int (&acc)[kTokens / sm90_columns(kTokens)][sm90_columns(kTokens) / 2]) {
  const int lane = Sm90Consumer().lane;
  if (!Sm90Consumer().works(strips)) {
    // Only releases stages: the other block's activations still pass through this one.
    for (int block = own.block_begin; block < own.block_end; ++block) {
      ptx::barrier_wait(own.full(ring.stage), ring.phase);
      sm90_release(p, own, ring.stage, lane);
      ring.advance(p.stages);
    }
    return;
  }
  // A warp whose strip does not exist must multiply with the others: it takes the last strip's weights, and its sums are not used.
  const int strip = min(Sm90Consumer().strip, strips - 1);
  // |acc| <= K of the split * 128 * 255 < 2^31, as blocks_per_split * kBlock <= kMaxSplitK (unpack.cuh).
  uint32_t even[4][4];  // weights of even blocks; while products read these, odd is filled
  uint32_t odd[4][4];
  int before = 0;  // the stage that the products under way read
  const auto step = [&](uint32_t (&a)[4][4], bool first) {
    sm90_multiply<kBits, kTokens, kUnsigned>(p, own, ring, strip, !first, a, acc);
    ptx::wgmma_wait<1>();
    if (!first) sm90_release(p, own, before, lane);
    before = ring.stage;
    ring.advance(p.stages);
  };
  int block = own.block_begin;
  for (; block + 1 < own.block_end; block += 2) {
    step(even, block == own.block_begin);
    step(odd, false);
  }
  if (block < own.block_end) step(even, block == own.block_begin);
  ptx::wgmma_wait<0>();
  if (own.block_begin < own.block_end) sm90_release(p, own, before, lane);
}

// Writes the sums of tokens `first` ... `first` + kStaged - 1 from the fragments of a warpgroup to shared memory as [token][64 channels],
// so that whole rows are finished and stored together.
template <int kTokens, int kStaged>
__device__ inline void sm90_stage_sums(const Arguments& p, uint32_t staged, int first, int thread,
                                       const int (&acc)[kTokens / sm90_columns(kTokens)][sm90_columns(kTokens) / 2]) {
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

// Finishes this split's share of the staged rows: 16 lanes per row, four channels per lane.
template <int kBits, int kTokens, int kStaged>
__device__ inline void sm90_finish(const Arguments& p, const Sm90Block<kBits, kTokens>& own, uint32_t staged, int token, int channel,
                                   int thread) {
  const Channels<4> channels(p.finish, channel + thread % 16 * 4);
  for (int row = own.rank_split * 8 + thread / 16; row < kStaged && token + row < p.m; row += 8 * p.splits) {
    const uint32_t at = staged + row * kSm90Pitch + thread % 16 * 16;
    const uint4 word = ptx::load_shared4(at);
    int sum[4] = {static_cast<int>(word.x), static_cast<int>(word.y), static_cast<int>(word.z), static_cast<int>(word.w)};
    for (int other = 1; other < p.splits; ++other) {
      const int split = (own.rank_split + other) % p.splits;
      const int4 more = ptx::load_cluster4(at, split * p.multicast + own.rank_channel);
      sum[0] += more.x;
      sum[1] += more.y;
      sum[2] += more.z;
      sum[3] += more.w;
    }
    if (channels.count > 0) finish(p.finish, channels, token + row, sum);
  }
}

// The results of a warpgroup's half of a tile.
template <int kBits, int kTokens>
__device__ inline void sm90_results(const Arguments& p, const Sm90Block<kBits, kTokens>& own, const Sm90Tile& tile, int strips,
                                    const int (&acc)[kTokens / sm90_columns(kTokens)][sm90_columns(kTokens) / 2]) {
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
    if (there) sm90_finish<kBits, kTokens, kTokens>(p, own, staged, token, channel, thread);
    if (p.splits == 1) ptx::barrier_sync(1 + group, 128);  // before the next tile's sums
  } else if (there) {
#pragma unroll
    for (int first = 0; first < kTokens; first += sm90_staged(kTokens)) {
      sm90_stage_sums<kTokens, sm90_staged(kTokens)>(p, staged, first, thread, acc);
      ptx::barrier_sync(1 + group, 128);
      sm90_finish<kBits, kTokens, sm90_staged(kTokens)>(p, own, staged, token + first, channel, thread);
      ptx::barrier_sync(1 + group, 128);
    }
  }
}

template <int kBits, int kTokens, bool kUnsigned>
__global__ void __launch_bounds__(kSm90Threads, 1) gemm_sm90(const __grid_constant__ CUtensorMap map, const __grid_constant__ Arguments p) {
  constexpr int kColumns = sm90_columns(kTokens);
  const Sm90Block<kBits, kTokens> own(p);
  const int group = static_cast<int>(threadIdx.x) / 128;

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&map);
    for (int stage = 0; stage < p.stages; ++stage) {
      ptx::barrier_init(own.full(stage), 1);
      ptx::barrier_init(own.empty(stage), kSm90ConsumerWarps * p.multicast);
    }
    ptx::fence_barrier_init();
  }
  __syncwarp();
  ptx::cluster_sync();

  if (group == 0) {
    ptx::lower_registers<40>();
    if (threadIdx.x == 0) sm90_produce(&map, p, own);
    __syncwarp();
  } else {
    ptx::raise_registers<232>();
    Sm90Ring ring;
    for (int number = own.cluster; number < own.tiles; number += own.clusters) {
      const Sm90Tile tile(p, number);
      const int panel = own.panel(p, tile);
      const int strips = own.strips(p, panel);
      int acc[kTokens / kColumns][kColumns / 2];
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) acc[i / (kColumns / 2)][i % (kColumns / 2)] = 0;
      sm90_accumulate<kBits, kTokens, kUnsigned>(p, own, ring, strips, acc);
      sm90_results(p, own, tile, strips, acc);
    }
  }
  // The producer's warpgroup takes part in the cluster_sync of sm90_results.
  if (group == 0 && p.splits > 1) ptx::cluster_sync();
  // No block ends while others may still read its shared memory or arrive at its barriers.
  if (p.splits * p.multicast > 1) ptx::cluster_sync();
}

// The kernel for weights of `bits` bits, 1 ... 8, and activations that are unsigned bytes or signed ones.
template <int kTokens>
Sm90Kernel find_sm90(bool unsigned_a, int bits) {
  return with_bits(bits, [unsigned_a](auto constant) -> Sm90Kernel {
    return unsigned_a ? gemm_sm90<constant(), kTokens, true> : gemm_sm90<constant(), kTokens, false>;
  });
}

}  // namespace ulp::cuda
