// Hopper's own instructions (sm_90a): barriers in shared memory, bulk and tensor copies, clusters, warpgroup matrix products.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/tiles.h"

namespace ulp::cuda::ptx {

// ---------------------------------------------------------------------------------------------------------------------- mbarrier

__device__ inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the other blocks of the cluster. A cluster_sync must follow.
__device__ inline void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// One arrival; the phase also waits for `bytes` more from copies.
__device__ inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Makes what this thread knows to be in shared memory visible to copies and wgmma.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One arrival at the barrier of the same address in block `rank` of the cluster.
__device__ inline void barrier_arrive_remote(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Waits until the phase of the given parity is over; the data of its copies is then visible. (.acquire.cluster would invalidate the L1
// cache at every wait. It is not needed: from other blocks only copies write here, and the barrier counts their bytes.)
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni over;\n"
      "bra.uni again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// ------------------------------------------------------------------------------------------------------------------------ copies

// Copies `bytes` (a multiple of 16, both addresses 16-byte aligned) from global memory; the barrier counts them.
__device__ inline void bulk_copy(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ inline void prefetch_tensor_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// Copies the box of a two-dimensional tensor map at column x, row y. Elements outside the tensor are zero, and their bytes count, too.
__device__ inline void tensor_copy(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
               "l"(map), "r"(x), "r"(y), "r"(barrier)
               : "memory");
}

// The same to every block of the cluster whose bit is set in `ranks`, at the same shared address; the barrier of each counts its bytes.
__device__ inline void tensor_copy_multicast(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], "
      "%5;" ::"r"(shared),
      "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(ranks)
      : "memory");
}

// ----------------------------------------------------------------------------------------------------------------------- cluster

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Every thread of every block of the cluster arrives and waits; shared memory written before is visible after.
__device__ inline void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;\n" ::
          : "memory");
}

// A 32-bit word of the shared memory of block `rank`.
__device__ inline int load_cluster(uint32_t shared, uint32_t rank) {
  int value;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %1, %2;\n"
      "ld.shared::cluster.s32 %0, [remote];\n"
      "}\n"
      : "=r"(value)
      : "r"(shared), "r"(rank)
      : "memory");
  return value;
}

// Four of them.
__device__ inline int4 load_cluster4(uint32_t shared, uint32_t rank) {
  int4 value;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.s32 {%0, %1, %2, %3}, [remote];\n"
      "}\n"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "r"(shared), "r"(rank)
      : "memory");
  return value;
}

// ------------------------------------------------------------------------------------------------------------------- warpgroups

// Sets the number of registers per thread of this warpgroup; they come from the block's pool.
template <int kCount>
__device__ inline void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Barrier `id` (1 ... 15) of the block, for `threads` threads of whole warps.
__device__ inline void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Orders this warpgroup's register writes before the following wgmma.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving instructions that write an accumulator across this point, among the products: it would serialise them.
__device__ inline void wgmma_keep(int& accumulator) { asm volatile("" : "+r"(accumulator)::"memory"); }

// Matrix descriptor (9.7.15.5.1) of a K-major operand in shared memory, rows of 128 bytes, 128-byte swizzle: address and the stride of
// eight rows (1024 bytes) in units of 16 bytes; bit 62 says the swizzle. The K steps within the 128 bytes advance the address.
__device__ inline uint64_t swizzled_descriptor(uint32_t address) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 16) | ((address & 0x3FFFF) >> 4);
}

// d (+)= a * b, started only: 64 rows, a from registers, a warp's 16 rows as in mma_s8 (signed bytes) or mma_b1; b is kColumns rows of 32
// bytes in shared memory, of k: 32 values of kUnit's bytes or 256 bits, of which AND is counted. d[4 i ... 4 i + 3] is the 16 x 8 fragment
// for columns 8 i ... 8 i + 7. With accumulate = false the old d counts as zero.
template <int kColumns, Unit kUnit>
__device__ inline void wgmma(int (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(kUnit == Unit::s8 || kUnit == Unit::u8 || kUnit == Unit::b1);
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 64);
// Macros, as inline assembly takes only literals: they write the lists of registers.
#define ULP_D8(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), "+r"(d[i + 7])
#define ULP_WGMMA(columns, kind, registers, a0, a1, a2, a3, descriptor, flag, ...)                                               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #flag ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns kind " {" registers \
               "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #descriptor ", p;\n}\n"                                          \
               : __VA_ARGS__                                                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)))
#define ULP_UNITS(...)                                   \
  if constexpr (kUnit == Unit::s8) {                     \
    ULP_OF_KIND("k32.s32.s8.s8", __VA_ARGS__);           \
  } else if constexpr (kUnit == Unit::u8) {              \
    ULP_OF_KIND("k32.s32.s8.u8", __VA_ARGS__);           \
  } else {                                               \
    ULP_OF_KIND("k256.s32.b1.b1.and.popc", __VA_ARGS__); \
  }
#define ULP_OF_KIND(kind, columns, ...) ULP_WGMMA(columns, kind, __VA_ARGS__)
#define ULP_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ULP_R16 ULP_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ULP_R32 ULP_R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
  if constexpr (kColumns == 16) {
    ULP_UNITS(16, ULP_R8, 8, 9, 10, 11, 12, 13, ULP_D8(0))
  } else if constexpr (kColumns == 32) {
    ULP_UNITS(32, ULP_R16, 16, 17, 18, 19, 20, 21, ULP_D8(0), ULP_D8(8))
  } else {
    ULP_UNITS(64, ULP_R32, 32, 33, 34, 35, 36, 37, ULP_D8(0), ULP_D8(8), ULP_D8(16), ULP_D8(24))
  }
#undef ULP_D8
#undef ULP_WGMMA
#undef ULP_UNITS
#undef ULP_OF_KIND
#undef ULP_R8
#undef ULP_R16
#undef ULP_R32
}

}  // namespace ulp::cuda::ptx
