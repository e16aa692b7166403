#include "machine.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace ulp::emulator {

Machine* machine = nullptr;
Thread* current = nullptr;

namespace {

// Kept for the life of the process, as their stacks are expensive to make.
Thread& pooled_thread(size_t i) {
  static std::vector<std::unique_ptr<Thread>> pool;
  while (pool.size() <= i) pool.push_back(std::make_unique<Thread>());
  return *pool[i];
}

std::string formatted(const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

std::string text_of(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = formatted(format, arguments);
  va_end(arguments);
  return text;
}

std::string place_of(const Thread& thread) {
  return text_of("block (%u, %u, %u) thread (%u, %u, %u) = warp %d lane %d", thread.block->index.x, thread.block->index.y,
                 thread.block->index.z, thread.index.x, thread.index.y, thread.index.z, thread.warp->index, thread.lane);
}

std::string lanes_of(uint32_t mask) {
  std::string text;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    int last = lane;
    while (last < 31 && mask >> (last + 1) & 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(lane) + (last > lane ? "-" + std::to_string(last) : "");
    lane = last;
  }
  return text;
}

}  // namespace

void fail(cudaError_t error, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string what = formatted(format, arguments);
  va_end(arguments);
  if (machine == nullptr) {
    fprintf(stderr, "device code called by the host: %s\n", what.c_str());
    abort();
  }
  set_fault(error, place_of(self()) + ": " + what);
  machine->stop();
}

void fail_machine(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  set_fault(cudaErrorLaunchFailure, formatted(format, arguments));
  va_end(arguments);
  machine->stop();
}

std::string agent_name(uint32_t agent) { return machine->agent_name(agent); }

Machine::Machine(const cudaLaunchConfig_t& config, dim3 cluster, void (*run)(void*), void* arguments, uint64_t seed)
    : config_(config), cluster_(cluster), run_(run), arguments_(arguments), random_(seed) {
  constexpr uint32_t kLandOneIn[] = {0, 1, 4, 32};  // 0: only when nothing else can run
  land_one_in_ = kLandOneIn[random_() % 4];
}

uint32_t Machine::new_agent(std::string name) {
  agents_.push_back(std::move(name));
  const Block& last = *blocks.back();
  return static_cast<uint32_t>(blocks.size() * last.threads.size() + agents_.size() - 1);
}

std::string Machine::agent_name(uint32_t agent) const {
  const size_t threads = blocks[0]->threads.size();
  if (agent >= blocks.size() * threads) return agents_[agent - blocks.size() * threads];
  return place_of(*blocks[agent / threads]->threads[agent % threads]);
}

bool Machine::run_grid() {
  const dim3 grid = config_.gridDim;
  std::vector<uint3> clusters;
  for (unsigned z = 0; z < grid.z; z += cluster_.z) {
    for (unsigned y = 0; y < grid.y; y += cluster_.y) {
      for (unsigned x = 0; x < grid.x; x += cluster_.x) clusters.push_back({x, y, z});
    }
  }
  std::shuffle(clusters.begin(), clusters.end(), random_);
  gridDim = grid;
  blockDim = config_.blockDim;
  machine = this;
  for (const uint3& first : clusters) {
    start_cluster(first);
    run_cluster();
    if (faulted_) break;
  }
  machine = nullptr;
  current = nullptr;
  return !faulted_;
}

void Machine::start_cluster(uint3 first) {
  const dim3 size = config_.blockDim;
  const uint32_t threads = size.x * size.y * size.z;
  const uint32_t count = cluster_.x * cluster_.y * cluster_.z;
  blocks.clear();
  agents_.clear();
  copies.clear();
  ready_.clear();
  running_ = nullptr;
  cluster_sync_ = WarpBarrier{};
  live_threads_ = count * threads;
  for (uint32_t rank = 0; rank < count; ++rank) {
    blocks.push_back(std::make_unique<Block>());
    Block& block = *blocks.back();
    block.rank = rank;
    block.index = {first.x + rank % cluster_.x, first.y + rank / cluster_.x % cluster_.y, first.z + rank / (cluster_.x * cluster_.y)};
    block.shared.reset(static_cast<uint32_t>(config_.dynamicSmemBytes), count * threads, device().races, random_());
    block.warps.resize((threads + 31) / 32);
    block.live_warps = static_cast<uint32_t>(block.warps.size());
    for (uint32_t i = 0; i < threads; ++i) {
      Thread& thread = pooled_thread(rank * threads + i);
      Warp& warp = block.warps[i / 32];
      thread.block = &block;
      thread.warp = &warp;
      thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
      thread.lane = static_cast<int>(i % 32);
      thread.agent = rank * threads + i;
      thread.epoch = 1;
      thread.view = View{};
      thread.copies.clear();
      thread.copy_group = 0;
      thread.requests = 0;
      thread.ended = false;
      thread.waits_for = nullptr;
      thread.fibre.start(&Machine::thread_main, &thread);
      block.threads.push_back(&thread);
      warp.block = &block;
      warp.index = static_cast<int>(i / 32);
      warp.threads[thread.lane] = &thread;
      warp.existing |= 1u << thread.lane;
    }
  }
  for (const auto& block : blocks) {
    // A thread starts with its share of the 65536 registers, as compiled for __launch_bounds__(threads, 1).
    const uint32_t registers = std::min<uint32_t>(256, 65536 / (32 * static_cast<uint32_t>(block->warps.size())) / 8 * 8);
    for (Warp& warp : block->warps) {
      warp.registers = registers;
      warp.live = warp.ready = warp.existing;
      warp.queued = true;
      ready_.push_back(&warp);
    }
    start_warpgroups(*block);
  }
}

void Machine::run_cluster() {
  Thread* const first = next();
  current = first;
  threadIdx = first->index;
  blockIdx = first->block->index;
  main_.switch_to(first->fibre);
}

void Machine::thread_main(void* thread) {
  machine->run_(machine->arguments_);
  machine->end_thread(*static_cast<Thread*>(thread));
}

void Machine::stop() {
  faulted_ = true;
  current->fibre.switch_to(main_, true);
  abort();  // never reached
}

void Machine::end_thread(Thread& thread) {
  Warp& warp = *thread.warp;
  for (const Gathering& gathering : warp.gatherings) {
    if (gathering.mask >> thread.lane & 1) {
      fail(cudaErrorLaunchFailure, "lanes diverge: ends while lanes %s wait for it in %s", lanes_of(gathering.arrived).c_str(),
           gathering.what->name);
    }
  }
  thread.ended = true;
  warp.live &= ~(1u << thread.lane);
  --live_threads_;
  if (warp.live == 0) {
    count_requests(warp);
    check_ended(warp);
    --warp.block->live_warps;
    if (warp.block->live_warps == 0) end_block(*warp.block);
    pass_if_complete(warp.block->syncs[0], warp.block->live_warps);
    pass_if_complete(cluster_sync_, live_warps());
  }
  switch_from(thread, true);
}

void Machine::end_block(Block& block) {
  for (const BulkCopy& copy : copies) {
    if (copy.target != &block) continue;
    fail(cudaErrorLaunchFailure,
         "the last thread of the block ends while a copy into its shared bytes 0x%x ... is under way (barrier 0x%x)", copy.shared,
         copy.barrier);
  }
}

size_t Machine::live_warps() const {
  size_t live = 0;
  for (const auto& block : blocks) live += block->live_warps;
  return live;
}

void Machine::arrive(Warp& warp, WarpBarrier& barrier, size_t warps) {
  for (Thread* thread : warp.threads) {
    if (thread == nullptr) continue;
    barrier.views.add(thread->view);
    barrier.views.add(thread->stamp());
    ++thread->epoch;
  }
  barrier.waiting.push_back(&warp);
  pass_if_complete(barrier, warps);
}

void Machine::pass_if_complete(WarpBarrier& barrier, size_t warps) {
  if (barrier.waiting.empty() || barrier.waiting.size() < warps) return;
  const View view = barrier.views.freeze();
  for (Warp* warp : barrier.waiting) {
    for (Thread* thread : warp->threads) {
      if (thread == nullptr) continue;
      thread->view = view;
      wake(*thread);
    }
  }
  barrier = WarpBarrier{};
}

void Machine::arrive_at_block(Warp& warp) { arrive(warp, warp.block->syncs[0], warp.block->live_warps); }

void Machine::arrive_at_named(Warp& warp, int id, int threads) {
  WarpBarrier& barrier = warp.block->syncs[static_cast<size_t>(id)];
  if (!barrier.waiting.empty() && barrier.threads != threads) {
    fail(cudaErrorLaunchFailure, "bar.sync %d of %d threads, while others wait there for %d", id, threads, barrier.threads);
  }
  barrier.threads = threads;
  arrive(warp, barrier, static_cast<size_t>(threads) / 32);
}

void Machine::arrive_at_cluster(Warp& warp) { arrive(warp, cluster_sync_, live_warps()); }

void Machine::wait(const char* format, uint32_t a, uint32_t b) {
  Thread& thread = self();
  thread.waits_for = format;
  thread.wait_details[0] = a;
  thread.wait_details[1] = b;
  switch_from(thread, false);
  thread.waits_for = nullptr;
}

void Machine::wake(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.ready |= 1u << thread.lane;
  if (!warp.queued && &warp != running_) {
    warp.queued = true;
    ready_.push_back(&warp);
  }
}

void Machine::yield() {
  if (!chance(4)) return;
  wake(self());
  leave_running_ = true;
  wait("its turn");
}

// Mostly continues the running warp while it can run; else a random one. Copies land between turns, at the latest when nothing else can
// run.
Thread* Machine::next() {
  for (;;) {
    const bool stays = running_ != nullptr && running_->ready != 0 && !leave_running_ && !chance(32);
    leave_running_ = false;
    if (!stays) {
      if (running_ != nullptr && running_->ready != 0 && !running_->queued) {
        running_->queued = true;
        ready_.push_back(running_);
      }
      running_ = nullptr;
      if (!copies.empty() && (ready_.empty() || (land_one_in_ != 0 && chance(land_one_in_)))) land_one();
      if (ready_.empty()) {
        if (copies.empty()) return nullptr;
        continue;
      }
      const size_t i = random_() % ready_.size();
      running_ = ready_[i];
      ready_[i] = ready_.back();
      ready_.pop_back();
      running_->queued = false;
    }
    const int turn = static_cast<int>(random_() % 32);
    const uint32_t rotated = turn == 0 ? running_->ready : (running_->ready >> turn | running_->ready << (32 - turn));
    const int lane = (__builtin_ctz(rotated) + turn) % 32;
    running_->ready &= ~(1u << lane);
    return running_->threads[lane];
  }
}

void Machine::land_one() {
  const size_t i = random_() % copies.size();
  const BulkCopy copy = copies[i];
  copies[i] = copies.back();
  copies.pop_back();
  land(copy);
}

void Machine::switch_from(Thread& thread, bool ends) {
  Thread* const to = next();
  if (to == nullptr) {
    if (live_threads_ != 0) {
      set_fault(cudaErrorLaunchTimeout, deadlock_report());
      stop();
    }
    thread.fibre.switch_to(main_, true);
  }
  if (to == &thread) return;
  current = to;
  threadIdx = to->index;
  blockIdx = to->block->index;
  thread.fibre.switch_to(to->fibre, ends);
}

std::string Machine::deadlock_report() const {
  std::string report = "deadlock: no thread can go on\n";
  for (const auto& block : blocks) {
    for (const Warp& warp : block->warps) {
      std::map<std::string, uint32_t> waiting;
      for (const Thread* thread : warp.threads) {
        if (thread == nullptr || thread->ended) continue;
        waiting[text_of(thread->waits_for, thread->wait_details[0], thread->wait_details[1])] |= 1u << thread->lane;
      }
      for (const auto& [what, lanes] : waiting) {
        report += text_of("  block (%u, %u, %u) warp %d lanes %s wait for ", block->index.x, block->index.y, block->index.z, warp.index,
                          lanes_of(lanes).c_str()) +
                  what + "\n";
      }
    }
    for (const auto& [address, barrier] : block->barriers) {
      report += text_of("  block (%u, %u, %u) barrier 0x%x is in phase %u (parity %u): %u of %u arrivals and %lld bytes to come\n",
                        block->index.x, block->index.y, block->index.z, address, barrier.phase, barrier.phase & 1, barrier.pending,
                        barrier.expected, static_cast<long long>(barrier.bytes));
    }
  }
  return report;
}

void converge(const Collective& what, uint32_t mask, void* argument) {
  Thread& thread = self();
  Warp& warp = *thread.warp;
  const uint32_t bit = 1u << thread.lane;
  if (!(mask & bit)) fail(cudaErrorLaunchFailure, "%s with mask 0x%x, which lacks the lane itself", what.name, mask);
  if (mask & ~warp.live) fail(cudaErrorLaunchFailure, "%s with lanes %s, which have ended", what.name, lanes_of(mask & ~warp.live).c_str());
  size_t found = warp.gatherings.size();
  for (size_t i = 0; i < warp.gatherings.size(); ++i) {
    const Gathering& gathering = warp.gatherings[i];
    if (!(gathering.mask & mask)) continue;
    if (gathering.what != &what || gathering.mask != mask) {
      fail(cudaErrorLaunchFailure, "lanes diverge: %s (mask 0x%x) while lanes %s wait in %s (mask 0x%x)", what.name, mask,
           lanes_of(gathering.arrived).c_str(), gathering.what->name, gathering.mask);
    }
    found = i;
  }
  if (found == warp.gatherings.size()) warp.gatherings.push_back({&what, mask, 0, {}});
  Gathering& gathering = warp.gatherings[found];
  gathering.arrived |= bit;
  gathering.arguments[thread.lane] = argument;
  if (gathering.arrived != mask) {
    machine->wait(what.name);
    return;
  }
  const Gathering complete = gathering;
  warp.gatherings.erase(warp.gatherings.begin() + static_cast<std::ptrdiff_t>(found));
  if (mask == warp.existing) count_requests(warp);
  if (!what.run(warp, mask, complete.arguments)) {
    machine->wait(what.name);
    return;
  }
  for (uint32_t others = mask & ~bit; others != 0; others &= others - 1) machine->wake(*warp.threads[__builtin_ctz(others)]);
}

}  // namespace ulp::emulator
