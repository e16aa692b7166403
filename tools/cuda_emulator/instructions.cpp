#include "instructions.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "machine.h"

namespace ulp::emulator {
namespace {

constexpr int kLoad = 0;
constexpr int kStore = 1;
constexpr int kMatrix = 2;

UlpEmulatorTraffic traffic[3] = {};

// Memory has 32 banks of one word. Requests of two or four words per lane are served for 16 or 8 lanes at a time; for such a part, each
// bank delivers one word per wavefront.
void count_request(const Request& request) {
  UlpEmulatorTraffic& count = traffic[request.kind];
  ++count.requests;
  const int lanes = 32 / request.words;
  for (int first = 0; first < 32; first += lanes) {
    uint32_t words[32][32];  // by bank
    int asked[32] = {};
    int worst = 0;
    for (int lane = first; lane < first + lanes; ++lane) {
      if (!(request.mask >> lane & 1)) continue;
      for (int i = 0; i < request.words; ++i) {
        const uint32_t word = request.addresses[lane] / 4 + static_cast<uint32_t>(i);
        uint32_t* const end = words[word % 32] + asked[word % 32];
        if (std::find(words[word % 32], end, word) != end) continue;
        *end = word;
        worst = std::max(worst, ++asked[word % 32]);
      }
    }
    count.wavefronts += static_cast<uint64_t>(worst);
    count.ideal += worst > 0;
  }
}

}  // namespace

void note_request(Thread& thread, int kind, int words, uint32_t address) {
  constexpr size_t kWindow = 4096;  // how far the requests of threads that never converge are compared
  Warp& warp = *thread.warp;
  const size_t i = thread.requests++;
  if (i >= kWindow) return;
  if (i >= warp.requests.size()) warp.requests.push_back({kind, words, 0, {}});
  Request& request = warp.requests[i];
  if (request.kind != kind || request.words != words) return;  // divergent lanes
  request.mask |= 1u << thread.lane;
  request.addresses[thread.lane] = address;
}

void count_requests(Warp& warp) {
  for (const Request& request : warp.requests) count_request(request);
  warp.requests.clear();
  for (Thread* thread : warp.threads) {
    if (thread != nullptr) thread->requests = 0;
  }
}

// ---------------------------------------------------------------------------------------------------------------- shared memory

void load_shared(uint32_t address, uint32_t* values, int words) {
  constexpr const char* kNames[] = {"", "load_shared", "load_shared2", "", "load_shared4"};
  const uint32_t bytes = 4 * static_cast<uint32_t>(words);
  Thread& thread = self();
  if (address % bytes != 0) fail(cudaErrorMisalignedAddress, "%s of 0x%x, which is no multiple of %u", kNames[words], address, bytes);
  thread.block->shared.read(thread.accessor(kNames[words]), address, values, bytes);
  note_request(thread, kLoad, words, address);
}

void store_shared(uint32_t address, const uint32_t* values, int words) {
  constexpr const char* kNames[] = {"", "store_shared", "store_shared2", "", "store_shared4"};
  const char* const name = kNames[words];
  const uint32_t bytes = 4 * static_cast<uint32_t>(words);
  Thread& thread = self();
  if (address % bytes != 0) fail(cudaErrorMisalignedAddress, "%s to 0x%x, which is no multiple of %u", name, address, bytes);
  thread.block->shared.write(thread.accessor(name), address, values, bytes);
  note_request(thread, kStore, words, address);
}

namespace {

struct LoadMatrix {
  uint32_t row;
  uint32_t* values;
};

bool run_load_matrix(Warp& warp, uint32_t, void* const (&arguments)[32]) {
  Request request{kMatrix, 4, kWholeWarp, {}};
  for (int i = 0; i < 32; ++i) {
    const uint32_t row = static_cast<const LoadMatrix*>(arguments[i])->row;
    if (row % 16 != 0) fail(cudaErrorMisalignedAddress, "ldmatrix with row address 0x%x of lane %d, which is no multiple of 16", row, i);
    request.addresses[i] = row;
    for (int part = 0; part < 4; ++part) {
      const int lane = 4 * (i % 8) + part;
      const LoadMatrix& receiver = *static_cast<const LoadMatrix*>(arguments[lane]);
      const uint32_t offset = 4 * static_cast<uint32_t>(part);
      warp.block->shared.read(warp.threads[lane]->accessor("ldmatrix"), row + offset, &receiver.values[i / 8], 4);
    }
  }
  count_request(request);
  return true;
}

const Collective kLoadMatrix{"ldmatrix", run_load_matrix};

}  // namespace

void load_matrix4(uint32_t (&values)[4], uint32_t row) {
  LoadMatrix argument{row, values};
  converge(kLoadMatrix, kWholeWarp, &argument);
}

// ------------------------------------------------------------------------------------------------------------- asynchronous copies

namespace {

void land(Thread& thread, const AsyncCopy& copy) {
  uint8_t bytes[16] = {};
  if (copy.bytes > 0) memcpy(bytes, copy.global, static_cast<size_t>(copy.bytes));
  thread.block->shared.land(thread.stamp(), copy.shared, bytes, 16);
}

}  // namespace

void copy_async16(uint32_t shared, const void* global, int bytes) {
  Thread& thread = self();
  if (bytes < 0 || bytes > 16) fail(cudaErrorLaunchFailure, "cp.async of %d bytes; 0 ... 16 are possible", bytes);
  if (shared % 16 != 0) fail(cudaErrorMisalignedAddress, "cp.async to 0x%x, which is no multiple of 16", shared);
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
    fail(cudaErrorMisalignedAddress, "cp.async from %p, which is no multiple of 16", global);
  if (bytes > 0) check_global("cp.async", global, static_cast<size_t>(bytes));
  thread.block->shared.begin_copy(thread.accessor("cp.async"), shared, 16);
  const AsyncCopy copy{shared, global, bytes, thread.copy_group};
  note_request(thread, kStore, 4, shared);
  if (device().arch >= 80) thread.copies.push_back(copy);
  else land(thread, copy);
}

void commit_copies() { ++self().copy_group; }

void wait_copies(int pending) {
  Thread& thread = self();
  const int64_t end = int64_t{thread.copy_group} - pending;  // earlier groups must have landed
  auto copy = thread.copies.begin();
  for (; copy != thread.copies.end() && int64_t{copy->group} < end; ++copy) land(thread, *copy);
  thread.copies.erase(thread.copies.begin(), copy);
}

// ------------------------------------------------------------------------------------------------------------------- mma.sync

namespace {

struct Mma {
  int* d;
  const uint32_t* a;
  uint32_t b[2];
};

// Value i of a register: of four bytes, or of eight nibbles.
template <int kBits>
int16_t element(uint32_t values, int i) {
  return static_cast<int16_t>(static_cast<int32_t>(values << (32 - kBits - kBits * i)) >> (32 - kBits));
}

// m16n8k32 of bytes, m16n8k64 of nibbles: a lane's fragments in rows of K.
template <int kBits>
bool run_mma(Warp&, uint32_t, void* const (&arguments)[32]) {
  constexpr int kEach = 32 / kBits;  // values per register
  constexpr int kDepth = 8 * kEach;
  int16_t a[16][kDepth];
  int16_t b[8][kDepth];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& from = *static_cast<const Mma*>(arguments[lane]);
    const int group = lane / 4;
    const int k = kEach * (lane % 4);
    for (int i = 0; i < kEach; ++i) {
      a[group][k + i] = element<kBits>(from.a[0], i);
      a[group + 8][k + i] = element<kBits>(from.a[1], i);
      a[group][k + kDepth / 2 + i] = element<kBits>(from.a[2], i);
      a[group + 8][k + kDepth / 2 + i] = element<kBits>(from.a[3], i);
      b[group][k + i] = element<kBits>(from.b[0], i);
      b[group][k + kDepth / 2 + i] = element<kBits>(from.b[1], i);
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[column][k];
      int& d = static_cast<const Mma*>(arguments[4 * (row % 8) + column / 2])->d[2 * (row / 8) + column % 2];
      d = static_cast<int>(static_cast<uint32_t>(d) + static_cast<uint32_t>(sum));  // wraps, as without .satfinite
    }
  }
  return true;
}

// m16n8k256 of bits: 32 per register, of which AND is counted.
bool run_count(Warp&, uint32_t, void* const (&arguments)[32]) {
  uint32_t a[16][8];  // by row, and by 32 k
  uint32_t b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& from = *static_cast<const Mma*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) a[lane / 4 + 8 * (i % 2)][lane % 4 + 4 * (i / 2)] = from.a[i];
    for (int i = 0; i < 2; ++i) b[lane / 4][lane % 4 + 4 * i] = from.b[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int i = 0; i < 8; ++i) sum += __builtin_popcount(a[row][i] & b[column][i]);
      int& d = static_cast<const Mma*>(arguments[4 * (row % 8) + column / 2])->d[2 * (row / 8) + column % 2];
      d = static_cast<int>(static_cast<uint32_t>(d) + static_cast<uint32_t>(sum));  // wraps
    }
  }
  return true;
}

const Collective kMmaB1{"mma.sync of b1", run_count};
const Collective kMmaS8{"mma.sync of s8", run_mma<8>};
const Collective kMmaS4{"mma.sync of s4", run_mma<4>};

}  // namespace

void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Mma argument{d, a, {b0, b1}};
  converge(kMmaS8, kWholeWarp, &argument);
}

void mma_s4(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  require_arch(device().arch < 90, "mma.sync of s4");
  Mma argument{d, a, {b0, b1}};
  converge(kMmaS4, kWholeWarp, &argument);
}

void mma_b1(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  require_arch(device().arch >= 80 && device().arch <= 90, "mma.sync of b1 with AND");
  Mma argument{d, a, {b0, b1}};
  converge(kMmaB1, kWholeWarp, &argument);
}

// ------------------------------------------------------------------------------------------------- of CUDA C++ rather than of PTX

namespace {

struct Shuffle {
  uint32_t value;
  int source;
  int width;
  bool exclusive_or;
};

bool run_shuffle(Warp&, uint32_t mask, void* const (&arguments)[32]) {
  uint32_t results[32];
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Shuffle& shuffle = *static_cast<const Shuffle*>(arguments[lane]);
    const int segment = lane & ~(shuffle.width - 1);
    int source = shuffle.exclusive_or ? lane ^ shuffle.source : segment | (shuffle.source & (shuffle.width - 1));
    if (source >= segment + shuffle.width) source = lane;
    if (!(mask >> source & 1)) fail(cudaErrorLaunchFailure, "shuffle with mask 0x%x: lane %d asks lane %d", mask, lane, source);
    results[lane] = static_cast<const Shuffle*>(arguments[source])->value;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) static_cast<Shuffle*>(arguments[lane])->value = results[lane];
  }
  return true;
}

bool run_ballot(Warp&, uint32_t mask, void* const (&arguments)[32]) {
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) votes |= *static_cast<const uint32_t*>(arguments[lane]) << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) *static_cast<uint32_t*>(arguments[lane]) = votes;
  }
  return true;
}

// __syncwarp orders the accesses of its lanes; other collectives do not.
bool run_sync_warp(Warp& warp, uint32_t mask, void* const (&)[32]) {
  Gatherer views;
  for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) {
    Thread& thread = *warp.threads[__builtin_ctz(lanes)];
    views.add(thread.view);
    views.add(thread.stamp());
    ++thread.epoch;
  }
  const View view = views.freeze();
  for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) warp.threads[__builtin_ctz(lanes)]->view = view;
  return true;
}

bool run_sync_threads(Warp& warp, uint32_t, void* const (&)[32]) {
  machine->arrive_at_block(warp);
  return false;
}

struct SyncNamed {
  int id;
  int threads;
};

bool run_sync_named(Warp& warp, uint32_t, void* const (&arguments)[32]) {
  const SyncNamed& first = *static_cast<const SyncNamed*>(arguments[0]);
  for (int lane = 1; lane < 32; ++lane) {
    const SyncNamed& other = *static_cast<const SyncNamed*>(arguments[lane]);
    if (other.id == first.id && other.threads == first.threads) continue;
    fail(cudaErrorLaunchFailure, "bar.sync %d, %d of lane 0, and %d, %d of lane %d", first.id, first.threads, other.id, other.threads,
         lane);
  }
  machine->arrive_at_named(warp, first.id, first.threads);
  return false;
}

const Collective kSyncNamed{"bar.sync", run_sync_named};
const Collective kShuffle{"shuffle", run_shuffle};
const Collective kBallot{"ballot", run_ballot};
const Collective kSyncWarp{"__syncwarp", run_sync_warp};
const Collective kSyncThreads{"__syncthreads", run_sync_threads};

}  // namespace

uint32_t shuffle(unsigned mask, uint32_t value, int source, int width, bool exclusive_or) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail(cudaErrorLaunchFailure, "shuffle of width %d, not a power of two", width);
  Shuffle argument{value, source, width, exclusive_or};
  converge(kShuffle, mask & self().warp->existing, &argument);
  return argument.value;
}

uint32_t ballot(unsigned mask, bool vote) {
  uint32_t votes = vote ? 1 : 0;
  converge(kBallot, mask & self().warp->existing, &votes);
  return votes;
}

void sync_named(int id, int threads) {
  if (id < 1 || id > 15 || threads < 32 || threads % 32 != 0) {
    fail(cudaErrorLaunchFailure, "bar.sync %d, %d: 1 ... 15 and a multiple of 32 are possible", id, threads);
  }
  SyncNamed argument{id, threads};
  converge(kSyncNamed, kWholeWarp, &argument);
}

void check_atomic(const void* pointer, size_t bytes) { check_global("atomic operation", pointer, bytes); }

void require_arch(bool has, const char* instruction) {
  if (!has) fail(cudaErrorIllegalInstruction, "sm_%d has no %s", device().arch, instruction);
}

void require_hopper(const char* instruction) { require_arch(device().arch == 90, instruction); }

}  // namespace ulp::emulator

void __syncwarp(unsigned mask) {
  using namespace ulp::emulator;
  converge(kSyncWarp, mask & self().warp->existing, nullptr);
}

void __syncthreads() {
  using namespace ulp::emulator;
  converge(kSyncThreads, self().warp->existing, nullptr);
}

void __trap() { ulp::emulator::fail(cudaErrorIllegalInstruction, "__trap()"); }

int __float2int_rn(float value) {
  if (std::isnan(value)) return 0;
  if (value >= 2147483648.0f) return std::numeric_limits<int>::max();
  if (value < -2147483648.0f) return std::numeric_limits<int>::min();
  return static_cast<int>(std::nearbyintf(value));
}

UlpEmulatorTraffic ulp_emulator_traffic(int what) { return ulp::emulator::traffic[what < 0 || what > 2 ? 0 : what]; }

namespace ulp::emulator {
void forget_traffic() {
  for (UlpEmulatorTraffic& count : traffic) count = {};
}
}  // namespace ulp::emulator
