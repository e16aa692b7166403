#include "mbarrier.h"

#include <cstring>

#include "machine.h"

namespace ulp::emulator {
namespace {

constexpr uint32_t kMaxArrivals = (1u << 20) - 1;
constexpr int64_t kMaxBytes = (1 << 20) - 1;

// The barrier at an address of the block, for an instruction of the running thread.
Mbarrier& barrier_at(Block& block, uint32_t address, const char* instruction, bool by_copy_or_other_block) {
  const auto found = block.barriers.find(address);
  if (found == block.barriers.end()) fail(cudaErrorLaunchFailure, "%s of 0x%x, where no mbarrier was initialised", instruction, address);
  Mbarrier& barrier = found->second;
  const Thread& thread = self();
  if (device().races && barrier.initialised.agent != thread.agent && !covers(thread.view.known, barrier.initialised)) {
    fail(cudaErrorLaunchFailure, "race: %s of barrier 0x%x, and nothing orders it after the initialisation", instruction, address);
  }
  if (by_copy_or_other_block && !barrier.announced) {
    fail(cudaErrorLaunchFailure, "%s of barrier 0x%x, whose initialisation no fence_barrier_init has announced", instruction, address);
  }
  return barrier;
}

Block& block_of(uint32_t rank, const char* instruction) {
  if (rank >= machine->blocks.size()) {
    fail(cudaErrorIllegalAddress, "%s: rank %u of a cluster of %zu", instruction, rank, machine->blocks.size());
  }
  Block& block = *machine->blocks[rank];
  if (block.live_warps == 0) fail(cudaErrorIllegalAddress, "%s: block %u of the cluster has ended", instruction, rank);
  return block;
}

// Ends the phase if no arrival and no byte is missing.
void check_phase(Mbarrier& barrier, uint32_t address) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  for (const Mbarrier::Waiter& waiter : barrier.waiters) {
    if (waiter.phase == barrier.phase) continue;
    fail_machine("barrier 0x%x: a second phase ends before warp %d lane %d has seen the end of the one that it waits for", address,
                 waiter.thread->warp->index, waiter.thread->lane);
  }
  ++barrier.phase;
  barrier.pending = barrier.expected;
  barrier.arrivals.add(Stamp{barrier.agent, barrier.phase});
  barrier.released = barrier.arrivals.freeze();
  for (const Mbarrier::Waiter& waiter : barrier.waiters) machine->wake(*waiter.thread);
}

void arrive(Mbarrier& barrier, uint32_t address) {
  if (barrier.pending == 0) {
    fail(cudaErrorLaunchFailure, "barrier 0x%x: an arrival more than the %u of phase %u, which still waits for %lld bytes", address,
         barrier.expected, barrier.phase, static_cast<long long>(barrier.bytes));
  }
  Thread& thread = self();
  barrier.arrivals.add(thread.view);
  barrier.arrivals.add(thread.stamp());
  ++thread.epoch;
  --barrier.pending;
  check_phase(barrier, address);
}

// Marks the words of the copy as being written until it lands.
void issue(const BulkCopy& copy, const char* name) {
  const Thread& thread = self();
  Accessor by = thread.accessor(name);
  by.asynchronous = true;
  copy.target->shared.begin_copy(by, copy.shared, copy.bytes);
  machine->copies.push_back(copy);
}

}  // namespace

void barrier_init(uint32_t barrier, uint32_t arrivals) {
  require_hopper("mbarrier.init");
  Thread& thread = self();
  if (barrier % 8 != 0) fail(cudaErrorMisalignedAddress, "mbarrier.init of 0x%x, which is no multiple of 8", barrier);
  if (arrivals < 1 || arrivals > kMaxArrivals) fail(cudaErrorLaunchFailure, "mbarrier.init of 0x%x with %u arrivals", barrier, arrivals);
  thread.block->shared.make_barrier(thread.accessor("mbarrier.init"), barrier);
  Mbarrier& made = thread.block->barriers[barrier];
  made.expected = made.pending = arrivals;
  made.initialised = thread.stamp();
  char name[64];
  snprintf(name, sizeof name, "a copy counted by barrier 0x%x of block %u of the cluster", barrier, thread.block->rank);
  made.agent = machine->new_agent(name);
}

void fence_barrier_init() {
  require_hopper("fence.mbarrier_init");
  for (auto& [address, barrier] : self().block->barriers) {
    if (barrier.initialised.agent == self().agent) barrier.announced = true;
  }
}

void fence_proxy_async() {
  require_hopper("fence.proxy.async");
  Thread& thread = self();
  Gatherer seen;
  seen.add(thread.view);
  seen.add(thread.stamp());
  ++thread.epoch;
  thread.view.fenced = seen.freeze().known;
}

void barrier_arrive(uint32_t barrier) {
  require_hopper("mbarrier.arrive");
  arrive(barrier_at(*self().block, barrier, "mbarrier.arrive", false), barrier);
  machine->yield();
}

void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  require_hopper("mbarrier.arrive.expect_tx");
  Mbarrier& at = barrier_at(*self().block, barrier, "mbarrier.arrive.expect_tx", false);
  at.bytes += bytes;
  if (bytes > kMaxBytes || at.bytes > kMaxBytes) {
    fail(cudaErrorLaunchFailure, "barrier 0x%x: %u bytes more make %lld expected; the most is %lld", barrier, bytes,
         static_cast<long long>(at.bytes), static_cast<long long>(kMaxBytes));
  }
  arrive(at, barrier);
  machine->yield();
}

void barrier_arrive_remote(uint32_t barrier, uint32_t rank) {
  require_hopper("mbarrier.arrive.shared::cluster");
  Block& block = block_of(rank, "mbarrier.arrive.shared::cluster");
  arrive(barrier_at(block, barrier, "mbarrier.arrive.shared::cluster", &block != self().block), barrier);
  machine->yield();
}

void barrier_wait(uint32_t barrier, uint32_t parity) {
  require_hopper("mbarrier.try_wait");
  machine->yield();
  Thread& thread = self();
  if (parity > 1) fail(cudaErrorLaunchFailure, "mbarrier.try_wait of 0x%x with parity %u", barrier, parity);
  Mbarrier& at = barrier_at(*thread.block, barrier, "mbarrier.try_wait", false);
  if ((at.phase & 1) == parity) {
    at.waiters.push_back({&thread, at.phase});
    machine->wait("barrier 0x%x to end a phase of parity %u", barrier, parity);
    for (size_t i = 0; i < at.waiters.size(); ++i) {
      if (at.waiters[i].thread != &thread) continue;
      at.waiters[i] = at.waiters.back();
      at.waiters.pop_back();
      break;
    }
  }
  thread.view = joined(thread.view, at.released);
}

void bulk_copy(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  constexpr const char* kName = "cp.async.bulk";
  require_hopper(kName);
  if (bytes == 0 || bytes % 16 != 0 || shared % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    fail(cudaErrorMisalignedAddress, "%s of %u bytes from %p to 0x%x: all must be multiples of 16", kName, bytes, global, shared);
  }
  check_global(kName, global, bytes);
  Block& block = *self().block;
  const Mbarrier& counts = barrier_at(block, barrier, kName, true);
  issue({&block, shared, bytes, barrier, counts.phase, global, {}, 0, 0}, kName);
}

void prefetch_tensor_map(const CUtensorMap* map) {
  require_hopper("prefetch.tensormap");
  decode(map, "prefetch.tensormap");
}

void tensor_copy(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier, uint32_t ranks) {
  constexpr const char* kName = "cp.async.bulk.tensor";
  require_hopper(kName);
  const TensorMap decoded = decode(map, kName);
  if (decoded.rank != 2) fail(cudaErrorIllegalInstruction, "%s.2d with a map of %d dimensions", kName, decoded.rank);
  if (shared % 128 != 0) fail(cudaErrorMisalignedAddress, "%s to 0x%x, which is no multiple of 128", kName, shared);
  const uint64_t extent = (decoded.sizes[1] - 1) * decoded.strides[0] + decoded.sizes[0] * decoded.element_bytes;
  check_global(kName, reinterpret_cast<const void*>(decoded.address), extent);
  if (ranks == 0) fail(cudaErrorLaunchFailure, "%s to no block of the cluster", kName);
  for (uint32_t rank = 0; ranks >> rank != 0; ++rank) {
    if (!(ranks >> rank & 1)) continue;
    Block& block = block_of(rank, kName);
    const Mbarrier& counts = barrier_at(block, barrier, kName, true);
    issue({&block, shared, box_bytes(decoded), barrier, counts.phase, nullptr, decoded, x, y}, kName);
  }
}

void land(const BulkCopy& copy) {
  Mbarrier& barrier = copy.target->barriers.at(copy.barrier);
  if (barrier.phase != copy.phase) {
    fail_machine(
        "a copy of %u bytes to 0x%x of block %u of the cluster lands when phase %u of barrier 0x%x, in which it was issued, has ended: "
        "fewer bytes "
        "were expected than copied",
        copy.bytes, copy.shared, copy.target->rank, copy.phase, copy.barrier);
  }
  std::vector<uint8_t> bytes;
  if (copy.global != nullptr) bytes.assign(static_cast<const uint8_t*>(copy.global), static_cast<const uint8_t*>(copy.global) + copy.bytes);
  else bytes = read_box(copy.map, copy.x, copy.y, copy.shared);
  copy.target->shared.land({barrier.agent, barrier.phase + 1}, copy.shared, bytes.data(), copy.bytes);
  barrier.bytes -= copy.bytes;
  check_phase(barrier, copy.barrier);
}

// ----------------------------------------------------------------------------------------------------------------------- cluster

namespace {

bool run_cluster_sync(Warp& warp, uint32_t, void* const (&)[32]) {
  machine->arrive_at_cluster(warp);
  return false;
}

const Collective kClusterSync{"barrier.cluster", run_cluster_sync};

}  // namespace

uint32_t cluster_rank() {
  require_hopper("%cluster_ctarank");
  return self().block->rank;
}

void cluster_sync() {
  require_hopper("barrier.cluster");
  converge(kClusterSync, self().warp->existing, nullptr);
}

void load_cluster(uint32_t shared, uint32_t rank, void* target, uint32_t bytes) {
  constexpr const char* kName = "ld.shared::cluster";
  require_hopper(kName);
  if (shared % bytes != 0) fail(cudaErrorMisalignedAddress, "%s of 0x%x, which is no multiple of %u", kName, shared, bytes);
  block_of(rank, kName).shared.read(self().accessor(kName), shared, target, bytes);
}

}  // namespace ulp::emulator
