// The windows of a convolution as rows of a product on Hopper: gemm_sm90.cuh with another producer.
//
// All four warps of the first warpgroup gather: 16 bytes of a window at a time by cp.async into the swizzled rows that wgmma reads, so that
// strides, dilations, borders of any zero point and groups are all one case. (A tensor map in im2col mode would fill borders with 0 only.)
// Weights come as in gemm_sm90.cuh, by one bulk copy per stage.
//
// A thread may announce a stage only when its own copies to it have landed, and it makes them visible to the tensor cores by a fence
// between proxies. It waits for them kConvLag stages later, so that the copies of kConvLag stages are under way at any time. `full` counts
// one arrival per thread, and the bytes of the weights with one more.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "cuda/conv_arguments.h"
#include "cuda/conv_kernels.h"
#include "cuda/conv_rows.cuh"
#include "cuda/gemm_sm90.cuh"
#include "cuda/ptx_sm90.cuh"

namespace ulp::cuda {

// The windows of every sixteenth row from `row` on.
template <int kRows>
struct Windows {
  WindowPlace place[kRows];

  __device__ Windows(const ConvArguments& p, int row) : Windows(p, row, std::make_integer_sequence<int, kRows>()) {}

 private:
  template <int... kIndices>
  __device__ Windows(const ConvArguments& p, int row, std::integer_sequence<int, kIndices...>)
      : place{WindowPlace(p, row + 16 * kIndices)...} {}
};

// Announces stages whose copies have landed.
template <typename Block>
struct Sm90Announcer {
  const Block& own;
  int started = 0;    // stages whose copies have been started
  int announced = 0;  // of these
  Sm90Ring ring;      // the next to announce

  __device__ explicit Sm90Announcer(const Block& block) : own(block) {}

  __device__ void announce(const ConvArguments& p) {
    ptx::fence_proxy_async();
    ptx::barrier_arrive(own.full(ring.stage));
    ring.advance(p.stages);
    ++announced;
  }
  // The copies of one more stage have been started.
  __device__ void start(const ConvArguments& p) {
    ptx::commit_copies();
    if (++started <= kConvLag) return;
    ptx::wait_copies<kConvLag>();
    announce(p);
  }
  __device__ void finish(const ConvArguments& p) {
    ptx::wait_copies<0>();
    while (announced < started) announce(p);
  }
};

// The producers: 128 threads. A thread copies piece `thread` % 8 of every sixteenth token.
template <int kBits, int kTokens, int kBlocks>
__device__ inline void sm90_gather(const ConvArguments& p, const Sm90Block<kBits, kTokens, kBlocks>& own, int passes) {
  constexpr int kRows = kTokens / 16;
  const int piece = static_cast<int>(threadIdx.x) % 8;
  const int first = static_cast<int>(threadIdx.x) / 8;
  const int64_t blocks = (p.k + kBlock - 1) / kBlock;
  Sm90Ring ring;
  Sm90Announcer<Sm90Block<kBits, kTokens, kBlocks>> announcer(own);
  WindowCopies<(kBlocks > 1)> copies(p);
  for (int number = own.cluster; number < own.tiles; number += own.clusters) {
    const Sm90Tile tile(p, number);
    const int panel = own.panel(p, tile);
    const uint32_t block_bytes = own.strips(p, panel) * strip_bytes(kBits);
    const unsigned char* weights = p.weights + panel * blocks * (kPanelStrips * strip_bytes(kBits));
    const Windows<kRows> windows(p, tile.token_tile * kTokens + first);
    PlanePairs pair(p.planes);
#pragma unroll 1
    for (int pass = 0; pass < passes; ++pass) {
      if constexpr (kBlocks > 1) copies.select(p, pair.a);
#pragma unroll 1
      for (int step = own.begin; step < own.end; ++step) {
        ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);  // passes at once in the first round
        if (threadIdx.x == 0) {
          const uint32_t bytes = own.blocks(p, step) * block_bytes;
          ptx::barrier_arrive_expect(own.full(ring.stage), bytes);
          ptx::bulk_copy(own.weights(ring.stage), weights + static_cast<int64_t>(step) * kBlocks * block_bytes, bytes,
                         own.full(ring.stage));
        }
        const int k = step * kBlock + piece * 16;
        const Tap tap(p.windows, k);
        const uint32_t to = own.activations(ring.stage) + first * kBlock + ((piece ^ (first % 8)) * 16);
#pragma unroll
        for (int i = 0; i < kRows; ++i) copies.copy(p, windows.place[i], tap, k, true, to + i * 16 * kBlock);
        announcer.start(p);
        ring.advance(p.stages);
      }
      if constexpr (kBlocks > 1) pair.next(p.planes);
    }
  }
  announcer.finish(p);
}

template <Unit kUnit, int kBits, int kTokens>
__global__ void __launch_bounds__(kSm90Threads, 1) conv_sm90(const __grid_constant__ ConvArguments p) {
  const Sm90Block<kBits, kTokens, stage_blocks(kUnit)> own(p);
  const int passes = kUnit == Unit::b1 ? p.planes.w_bits * p.planes.a_bits : 1;
  sm90_begin(p, own, 128 + 1);
  if (threadIdx.x < 128) {
    ptx::lower_registers<104>();
    sm90_gather(p, own, passes);
    __syncwarp();
  } else {
    ptx::raise_registers<200>();
    sm90_consume<kUnit, kBits, kTokens>(p, own, passes);
  }
  sm90_end(p);
}

// The kernel for weights of `bits` bits: 4 and 8, of planes 1 and 2.
template <Unit kUnit, int kTokens>
ConvKernel find_conv_sm90(int bits) {
  if constexpr (kUnit == Unit::b1) {
    return with_bits<kMaxConvPlanes>(bits, [](auto constant) -> ConvKernel { return conv_sm90<kUnit, constant(), kTokens>; });
  } else {
    if (bits == 8) return conv_sm90<kUnit, 8, kTokens>;
    return with_bits<4, 4>(bits, [](auto constant) -> ConvKernel { return conv_sm90<kUnit, constant(), kTokens>; });
  }
}

}  // namespace ulp::cuda
