// One launch: clusters of blocks of warps of threads, each thread a fibre, and the scheduling of their turns.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "clocks.h"
#include "cuda_runtime.h"
#include "emulator.h"
#include "fibre.h"
#include "mbarrier.h"
#include "shared_memory.h"
#include "wgmma.h"

namespace ulp::emulator {

constexpr uint32_t kWholeWarp = 0xFFFFFFFFu;

struct Block;
struct Warp;

struct AsyncCopy {
  uint32_t shared;
  const void* global;
  int bytes;
  uint32_t group;
};

struct Thread {
  Fibre fibre;
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint3 index{};
  int lane = 0;
  uint32_t agent = 0;
  uint32_t epoch = 1;
  View view;
  std::vector<AsyncCopy> copies;  // cp.async, oldest first
  uint32_t copy_group = 0;
  uint32_t requests = 0;  // of shared memory since its warp last converged
  bool ended = false;
  // What it waits for, as a format string with two numbers.
  const char* waits_for = nullptr;
  uint32_t wait_details[2] = {};

  Stamp stamp() const { return {agent, epoch}; }
  Accessor accessor(const char* name) const { return {stamp(), agent, &view, false, name}; }
};

// An operation that lanes do together. `run` is called with the arguments of all lanes of the mask once the last one has arrived, on its
// stack. It returns true if they continue at once; else it arranges for their waking.
struct Collective {
  const char* name;
  bool (*run)(Warp& warp, uint32_t mask, void* const (&arguments)[32]);
};

struct Gathering {
  const Collective* what;
  uint32_t mask;
  uint32_t arrived;
  void* arguments[32];
};

// The request of a warp's lanes to shared memory by one instruction.
struct Request {
  int kind;   // as in ulp_emulator_traffic
  int words;  // 32-bit words per lane
  uint32_t mask;
  uint32_t addresses[32];
};

struct Warp {
  Block* block = nullptr;
  int index = 0;
  Thread* threads[32] = {};
  uint32_t existing = 0;  // lanes, as bits
  uint32_t live = 0;
  uint32_t ready = 0;
  bool queued = false;
  std::vector<Gathering> gatherings;
  std::vector<Request> requests;
  WarpProducts products;
  uint32_t registers = 0;  // per thread
  uint32_t wanted_registers = 0;
};

// A barrier that warps pass together.
struct WarpBarrier {
  std::vector<Warp*> waiting;
  int threads = 0;  // expected, of a named one
  Gatherer views;
};

struct Block {
  uint3 index{};
  uint32_t rank = 0;  // in the cluster
  SharedMemory shared;
  std::vector<Thread*> threads;
  std::deque<Warp> warps;
  std::deque<Warpgroup> warpgroups;
  std::map<uint32_t, Mbarrier> barriers;
  std::array<WarpBarrier, 16> syncs;  // 0 is __syncthreads
  uint32_t live_warps = 0;
  uint32_t free_registers = 0;
  std::vector<Warp*> wanting_registers;
};

// SplitMix64.
class Random {
 public:
  using result_type = uint64_t;
  explicit Random(uint64_t seed) : state_(seed) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }
  uint64_t operator()() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
  }

 private:
  uint64_t state_;
};

class Machine {
 public:
  Machine(const cudaLaunchConfig_t& config, dim3 cluster, void (*run)(void*), void* arguments, uint64_t seed);

  // Runs the grid, cluster by cluster in random order. True if no thread faulted.
  bool run_grid();

  // Suspends the running thread until another one wakes it.
  void wait(const char* format, uint32_t a = 0, uint32_t b = 0);
  void wake(Thread& thread);
  // May let other threads run first.
  void yield();
  [[noreturn]] void stop();

  uint32_t new_agent(std::string name);
  std::string agent_name(uint32_t agent) const;
  bool chance(uint32_t one_in) { return random_() % one_in == 0; }
  // The lanes of the warp arrive at __syncthreads, at a named barrier of `threads` threads, or at the cluster's barrier. They are woken
  // when every live warp, or the given number of threads, has arrived.
  void arrive_at_block(Warp& warp);
  void arrive_at_named(Warp& warp, int id, int threads);
  void arrive_at_cluster(Warp& warp);

  std::vector<std::unique_ptr<Block>> blocks;  // of the running cluster
  std::vector<BulkCopy> copies;                // under way

 private:
  void start_cluster(uint3 first);
  void run_cluster();
  static void thread_main(void* thread);
  void end_thread(Thread& thread);
  void end_block(Block& block);
  Thread* next();
  void switch_from(Thread& thread, bool ends);
  void land_one();
  void arrive(Warp& warp, WarpBarrier& barrier, size_t warps);
  void pass_if_complete(WarpBarrier& barrier, size_t warps);
  size_t live_warps() const;
  std::string deadlock_report() const;

  const cudaLaunchConfig_t& config_;
  dim3 cluster_;
  void (*run_)(void*);
  void* arguments_;
  Random random_;
  uint32_t land_one_in_ = 1;
  Fibre main_;
  std::vector<Warp*> ready_;
  Warp* running_ = nullptr;
  bool leave_running_ = false;
  std::vector<std::string> agents_;  // beyond the threads
  WarpBarrier cluster_sync_;
  uint32_t live_threads_ = 0;
  bool faulted_ = false;
};

extern Machine* machine;  // of the running launch
extern Thread* current;   // its running thread

inline Thread& self() { return *current; }

// Ends the launch with this error and a message about the running thread.
[[noreturn]] void fail(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));
// The same without a thread.
[[noreturn]] void fail_machine(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string agent_name(uint32_t agent);

// The running lane arrives at an operation that the lanes of mask do together.
void converge(const Collective& what, uint32_t mask, void* argument);

// The emulated device.
struct Device {
  int arch = 90;
  int sms = 132;
  uint64_t memory = uint64_t{1} << 33;
  uint64_t seed = 1;
  bool races = true;
  uint32_t max_shared() const;  // largest dynamic shared memory of a block, in bytes
};
Device& device();
// Faults if the device lacks an instruction.
void require_arch(bool has, const char* instruction);
// Faults for instructions that only kernels compiled for sm_90a may contain, on any other architecture.
void require_hopper(const char* instruction);
// Faults for bytes outside of all allocations.
void check_global(const char* name, const void* pointer, size_t bytes);

// Adds a lane's request to its warp's window, and counts a complete window.
void note_request(Thread& thread, int kind, int words, uint32_t address);
void count_requests(Warp& warp);

// Stores the error of a launch.
void set_fault(cudaError_t error, const std::string& message);

}  // namespace ulp::emulator
