// Barriers in shared memory, and the bulk copies that they count.
#pragma once

#include <cstdint>
#include <vector>

#include "clocks.h"
#include "tensor_map.h"

namespace ulp::emulator {

struct Block;
struct Thread;

struct Mbarrier {
  struct Waiter {
    Thread* thread;
    uint32_t phase;
  };

  uint32_t expected = 0;
  uint32_t pending = 0;  // arrivals that the phase still needs
  int64_t bytes = 0;     // bytes that copies still have to bring, minus those not expected yet
  uint32_t phase = 0;
  bool announced = false;  // made visible by fence_barrier_init to copies and other blocks
  Stamp initialised;
  uint32_t agent = 0;  // copies that the barrier counts in phase p write as {agent, p + 1}
  Gatherer arrivals;
  View released;  // what a wait makes visible
  std::vector<Waiter> waiters;
};

struct BulkCopy {
  Block* target;
  uint32_t shared;
  uint32_t bytes;
  uint32_t barrier;
  uint32_t phase;      // of the barrier when the copy was issued
  const void* global;  // of a plain copy; else nullptr
  TensorMap map;
  int x, y;
};

void barrier_init(uint32_t barrier, uint32_t arrivals);
void fence_barrier_init();
// fence.proxy.async: makes the writes that this thread sees visible to asynchronous copies and matrix units.
void fence_proxy_async();
void barrier_arrive(uint32_t barrier);
void barrier_arrive_expect(uint32_t barrier, uint32_t bytes);
void barrier_arrive_remote(uint32_t barrier, uint32_t rank);
void barrier_wait(uint32_t barrier, uint32_t parity);

void bulk_copy(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier);
void prefetch_tensor_map(const CUtensorMap* map);
// ranks: bits of the receiving blocks; 0 is the issuing block alone.
void tensor_copy(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier, uint32_t ranks);

// Writes the bytes and counts them.
void land(const BulkCopy& copy);

uint32_t cluster_rank();
void cluster_sync();
void load_cluster(uint32_t shared, uint32_t rank, void* target, uint32_t bytes);

}  // namespace ulp::emulator
