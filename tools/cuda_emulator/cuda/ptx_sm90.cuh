// The functions of csrc/cuda/ptx_sm90.cuh, which documents them, on the emulator. This file must be found before that one.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/tiles.h"
#include "mbarrier.h"
#include "wgmma.h"

namespace ulp::cuda::ptx {

inline void barrier_init(uint32_t barrier, uint32_t arrivals) { emulator::barrier_init(barrier, arrivals); }
inline void fence_barrier_init() { emulator::fence_barrier_init(); }
inline void fence_proxy_async() { emulator::fence_proxy_async(); }
inline void barrier_arrive(uint32_t barrier) { emulator::barrier_arrive(barrier); }
inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) { emulator::barrier_arrive_expect(barrier, bytes); }
inline void barrier_arrive_remote(uint32_t barrier, uint32_t rank) { emulator::barrier_arrive_remote(barrier, rank); }
inline void barrier_wait(uint32_t barrier, uint32_t parity) { emulator::barrier_wait(barrier, parity); }

inline void bulk_copy(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  emulator::bulk_copy(shared, global, bytes, barrier);
}
inline void prefetch_tensor_map(const CUtensorMap* map) { emulator::prefetch_tensor_map(map); }
inline void tensor_copy(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier) {
  emulator::tensor_copy(shared, map, x, y, barrier, 1u << emulator::cluster_rank());
}
inline void tensor_copy_multicast(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier, uint16_t ranks) {
  emulator::tensor_copy(shared, map, x, y, barrier, ranks);
}

inline uint32_t cluster_rank() { return emulator::cluster_rank(); }
inline void cluster_sync() { emulator::cluster_sync(); }
inline int load_cluster(uint32_t shared, uint32_t rank) {
  int value;
  emulator::load_cluster(shared, rank, &value, sizeof value);
  return value;
}
inline int4 load_cluster4(uint32_t shared, uint32_t rank) {
  int4 value;
  emulator::load_cluster(shared, rank, &value, sizeof value);
  return value;
}

template <int kCount>
inline void raise_registers() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
  emulator::set_registers(kCount, true);
}
template <int kCount>
inline void lower_registers() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
  emulator::set_registers(kCount, false);
}

inline void barrier_sync(int id, int threads) { emulator::sync_named(id, threads); }

inline void wgmma_fence() { emulator::wgmma_fence(); }
inline void wgmma_commit() { emulator::wgmma_commit(); }
template <int kPending>
inline void wgmma_wait() {
  static_assert(kPending >= 0 && kPending <= 7);
  emulator::wgmma_wait(kPending);
}

inline void wgmma_keep(int&) {}

inline uint64_t swizzled_descriptor(uint32_t address) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 16) | ((address & 0x3FFFF) >> 4);
}

template <int kColumns, Unit kUnit>
inline void wgmma(int (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(kColumns % 8 == 0 && kColumns >= 8 && kColumns <= 256 && (kColumns <= 32 ? kColumns != 40 : kColumns % 16 == 0));
  emulator::wgmma({d, a, b, kColumns, kUnit, accumulate});
}

}  // namespace ulp::cuda::ptx
