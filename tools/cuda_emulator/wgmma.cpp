#include "wgmma.h"

#include <algorithm>
#include <cstring>

#include "machine.h"

#define ULP_UNCHECKED __attribute__((no_sanitize("address"), noinline))

namespace ulp::emulator {
namespace {

constexpr int kDepth = 32;  // bytes of k: 32 values, or 256 bits
constexpr int kPoison = 0x5A17ED00;

// ------------------------------------------------------------------------------------------------------- registers of a warp's lanes

// Not instrumented: the address of registers seen earlier may hold another variable by now.
template <typename T>
ULP_UNCHECKED void look(Registers<T>& registers) {
  registers.values.resize(static_cast<size_t>(32 * registers.count));
  auto* to = registers.values.data();
  for (T* const lane : registers.lanes) {
    for (int i = 0; i < registers.count; ++i) *to++ = lane[i];
  }
}

// The lane whose registers have changed since they were seen, or -1.
template <typename T>
ULP_UNCHECKED int changed_lane(const Registers<T>& registers) {
  const auto* seen = registers.values.data();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < registers.count; ++i) {
      if (registers.lanes[static_cast<size_t>(lane)][i] != *seen++) return lane;
    }
  }
  return -1;
}

template <typename T>
Registers<T>* find(std::vector<Registers<T>>& known, const Registers<T>& registers) {
  for (Registers<T>& row : known) {
    if (row.lanes == registers.lanes && row.count == registers.count) return &row;
  }
  return nullptr;
}

template <typename T>
void remember(std::vector<Registers<T>>& known, const Registers<T>& registers) {
  if (Registers<T>* const row = find(known, registers)) row->values = registers.values;
  else known.push_back(registers);
}

template <typename T>
void check_fenced(std::vector<Registers<T>>& known, const Registers<T>& registers, const char* which) {
  const Registers<T>* const row = find(known, registers);
  if (row == nullptr) return;
  const int lane = changed_lane(*row);
  if (lane >= 0) fail(cudaErrorLaunchFailure, "wgmma: %s of lane %d were written after the last wgmma_fence", which, lane);
}

// ------------------------------------------------------------------------------------------------------------------- descriptors

// The address of 16 bytes of a K-major operand: row n, bytes 16 * part ... of the 32 (PTX ISA, matrix descriptor).
class Operand {
 public:
  explicit Operand(uint64_t descriptor) {
    constexpr uint64_t kReserved = uint64_t{3} << 14 | uint64_t{3} << 30 | uint64_t{7} << 46 | uint64_t{0x3FF} << 52;
    if (descriptor & kReserved)
      fail(cudaErrorLaunchFailure, "wgmma: descriptor 0x%llx has reserved bits", static_cast<long long>(descriptor));
    start_ = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
    leading_ = static_cast<uint32_t>(descriptor >> 16 & 0x3FFF) << 4;
    stride_ = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
    constexpr int kModes[] = {0, 3, 2, 1};  // 0: none, 1: 128, 2: 64, 3: 32 bytes
    mode_ = kModes[descriptor >> 62];
    const uint32_t row = 16u << mode_;
    if (descriptor >> 49 & 7) fail(cudaErrorLaunchFailure, "wgmma: a base offset in the descriptor, which the emulator does not know");
    if (mode_ != 0 && (start_ & ~(row - 1)) % (8 * row) != 0) {
      fail(cudaErrorMisalignedAddress, "wgmma: operand at 0x%x, whose eight rows do not start at a multiple of %u", start_, 8 * row);
    }
    if (mode_ != 0 && start_ % row + kDepth > row)
      fail(cudaErrorLaunchFailure, "wgmma: operand at 0x%x crosses its rows of %u bytes", start_, row);
  }

  uint32_t address(int n, int part) const {
    const uint32_t group = start_ + static_cast<uint32_t>(n / 8) * stride_;
    const uint32_t row = static_cast<uint32_t>(n % 8) * (16u << mode_);
    return mode_ == 0 ? group + row + static_cast<uint32_t>(part) * leading_
                      : swizzled(group + row + static_cast<uint32_t>(part) * 16, mode_);
  }

 private:
  uint32_t start_, leading_, stride_;
  int mode_;
};

// -------------------------------------------------------------------------------------------------------------------- issue and run

Warpgroup& warpgroup_of(Warp& warp, const char* instruction) {
  const size_t i = static_cast<size_t>(warp.index) / 4;
  if (i >= warp.block->warpgroups.size()) fail(cudaErrorLaunchFailure, "%s by a warp whose warpgroup is not whole", instruction);
  return warp.block->warpgroups[i];
}

// The writes of the operand must be ordered before every lane; the warpgroup reads it from now until a warp waits.
void note_operand(Warp& warp, const Warpgroup& group, const Operand& b, int columns, uint32_t number) {
  const View* last = nullptr;
  for (const Thread* thread : warp.threads) {
    if (last != nullptr && same(*last, thread->view)) continue;
    last = &thread->view;
    const Accessor by{{group.agent, number + 1}, thread->agent, last, true, "wgmma"};
    for (int n = 0; n < columns; ++n) {
      for (int part = 0; part < 2; ++part) warp.block->shared.note_read(by, b.address(n, part), 16);
    }
  }
}

Accumulators& accumulators_of(Warp& warp, const Registers<int>& d, uint32_t number) {
  for (const auto& flying : warp.products.flying) {
    int* const theirs = flying->registers.lanes[0];
    int* const ours = d.lanes[0];
    if (ours + d.count <= theirs || theirs + flying->registers.count <= ours) continue;
    if (flying->registers.lanes != d.lanes || flying->registers.count != d.count) {
      fail(cudaErrorLaunchFailure, "wgmma: accumulators that overlap those of a product of another shape in flight");
    }
    flying->last = number;
    return *flying;
  }
  check_fenced(warp.products.known_d, d, "accumulators");
  auto made = std::make_unique<Accumulators>(Accumulators{d, {}, number});
  look(made->registers);
  made->values = made->registers.values;
  for (size_t i = 0; i < made->values.size(); ++i) {
    made->registers.values[i] = kPoison + static_cast<int>(i);
    d.lanes[i / static_cast<size_t>(d.count)][i % static_cast<size_t>(d.count)] = made->registers.values[i];
  }
  warp.products.flying.push_back(std::move(made));
  return *warp.products.flying.back();
}

// Adds to the result of a row of the warp and a column.
void accumulate(const Product& product, int warp, int row, int n, int sum) {
  const int lane = 4 * (row % 8) + n % 8 / 2;
  int& d = product.d[warp]->values[static_cast<size_t>(lane * (product.columns / 2) + n / 8 * 4 + row / 8 * 2 + n % 2)];
  const uint32_t old = product.accumulate[warp] ? static_cast<uint32_t>(d) : 0;
  d = static_cast<int>(old + static_cast<uint32_t>(sum));  // wraps, as without .satfinite
}

template <typename B>
void multiply(const uint8_t* b_bytes, const Product& product, int warp) {
  int16_t b[256][kDepth];
  for (int n = 0; n < product.columns; ++n) {
    for (int k = 0; k < kDepth; ++k) b[n][k] = static_cast<B>(b_bytes[n * kDepth + k]);
  }
  int16_t a[16][kDepth];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const uint32_t values = product.a[warp].values[static_cast<size_t>(4 * lane + i)];
      int16_t* const to = &a[lane / 4 + 8 * (i % 2)][4 * (lane % 4) + 16 * (i / 2)];
      for (int k = 0; k < 4; ++k) to[k] = static_cast<int8_t>(values >> (8 * k));
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int n = 0; n < product.columns; ++n) {
      int sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[n][k];
      accumulate(product, warp, row, n, sum);
    }
  }
}

// m64nNk256: bit i of register 0 is k = 32 (lane % 4) + i of row lane / 4; of register 1 eight rows, of 2 and 3 128 k further.
void count(const uint8_t* b_bytes, const Product& product, int warp) {
  uint32_t a[16][kDepth / 4];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i)
      a[lane / 4 + 8 * (i % 2)][lane % 4 + 4 * (i / 2)] = product.a[warp].values[static_cast<size_t>(4 * lane + i)];
  }
  for (int n = 0; n < product.columns; ++n) {
    uint32_t b[kDepth / 4];
    memcpy(b, b_bytes + n * kDepth, kDepth);
    for (int row = 0; row < 16; ++row) {
      int sum = 0;
      for (int i = 0; i < kDepth / 4; ++i) sum += __builtin_popcount(a[row][i] & b[i]);
      accumulate(product, warp, row, n, sum);
    }
  }
}

void run(Warpgroup& group, Product& product) {
  uint8_t bytes[256 * kDepth];
  const Operand b(product.b);
  for (int n = 0; n < product.columns; ++n) {
    for (int part = 0; part < 2; ++part) group.block->shared.fetch(b.address(n, part), &bytes[n * kDepth + 16 * part], 16);
  }
  for (int warp = 0; warp < 4; ++warp) {
    if (product.unit == cuda::Unit::b1) count(bytes, product, warp);
    else if (product.unit == cuda::Unit::u8) multiply<uint8_t>(bytes, product, warp);
    else multiply<int8_t>(bytes, product, warp);
  }
  product.run = true;
}

// Writes the results of the products before its target to a warp's registers, if all four warps have issued them.
bool deliver(Warpgroup& group, Warp& warp) {
  WarpProducts& own = warp.products;
  for (uint32_t number = group.first; number < own.target; ++number) {
    if (number - group.first >= group.products.size() || group.products[number - group.first].issued < 4) return false;
  }
  for (uint32_t number = group.first; number < own.target; ++number) {
    Product& product = group.products[number - group.first];
    if (!product.run) run(group, product);
    if (number < own.delivered) continue;
    const int lane = changed_lane(product.a[warp.index % 4]);
    if (lane >= 0) fail(cudaErrorLaunchFailure, "wgmma: the A registers of lane %d were written before the product was waited for", lane);
  }
  own.delivered = own.target;
  for (const auto& flying : own.flying) {
    if (flying->last >= own.target) continue;
    Registers<int>& d = flying->registers;
    const int lane = changed_lane(d);
    if (lane >= 0) fail(cudaErrorLaunchFailure, "wgmma: accumulators of lane %d were written before the product was waited for", lane);
    d.values = flying->values;
    for (size_t i = 0; i < d.values.size(); ++i) d.lanes[i / static_cast<size_t>(d.count)][i % static_cast<size_t>(d.count)] = d.values[i];
    remember(own.known_d, d);
  }
  own.flying.erase(std::remove_if(own.flying.begin(), own.flying.end(), [&](const auto& flying) { return flying->last < own.target; }),
                   own.flying.end());
  uint32_t all = own.delivered;
  for (const Warp* other : group.warps) all = std::min(all, other->products.delivered);
  for (; group.first < all; ++group.first) group.products.pop_front();
  Gatherer done;
  done.add(Stamp{group.agent, own.target});
  const View view = done.freeze();
  for (Thread* thread : warp.threads) thread->view = joined(thread->view, view);
  return true;
}

bool run_wgmma(Warp& warp, uint32_t, void* const (&arguments)[32]) {
  WarpProducts& own = warp.products;
  const WgmmaArguments& first = *static_cast<const WgmmaArguments*>(arguments[0]);
  Registers<int> d{{}, first.columns / 2, {}};
  Registers<const uint32_t> a{{}, 4, {}};
  for (size_t lane = 0; lane < 32; ++lane) {
    const WgmmaArguments& from = *static_cast<const WgmmaArguments*>(arguments[lane]);
    if (from.b != first.b || from.columns != first.columns || from.unit != first.unit || from.accumulate != first.accumulate) {
      fail(cudaErrorLaunchFailure, "wgmma: lanes 0 and %zu differ in descriptor, shape, type or accumulate", lane);
    }
    d.lanes[lane] = from.d;
    a.lanes[lane] = from.a;
  }
  Warpgroup& group = warpgroup_of(warp, "wgmma");
  if (!own.fenced) fail(cudaErrorLaunchFailure, "wgmma: the first one comes before any wgmma_fence");
  check_fenced(own.known_a, a, "A registers");
  look(a);
  remember(own.known_a, a);

  const uint32_t number = own.issued++;
  if (number - group.first == group.products.size()) group.products.push_back({first.b, first.columns, first.unit, false, 0, {}, {}, {}});
  Product& product = group.products[number - group.first];
  if (product.b != first.b || product.columns != first.columns || product.unit != first.unit) {
    fail(cudaErrorLaunchFailure, "wgmma: the warps of the warpgroup differ in descriptor, shape or type");
  }
  note_operand(warp, group, Operand(first.b), first.columns, number);
  const size_t index = static_cast<size_t>(warp.index % 4);
  product.accumulate[index] = first.accumulate;
  product.a[index] = a;
  product.d[index] = &accumulators_of(warp, d, number);
  if (++product.issued < 4) return true;
  for (Warp* other : group.warps) {
    if (!other->products.waiting || !deliver(group, *other)) continue;
    other->products.waiting = false;
    for (Thread* thread : other->threads) machine->wake(*thread);
  }
  return true;
}

bool run_fence(Warp& warp, uint32_t, void* const (&)[32]) {
  warp.products.fenced = true;
  for (auto& registers : warp.products.known_d) look(registers);
  for (auto& registers : warp.products.known_a) look(registers);
  return true;
}

bool run_commit(Warp& warp, uint32_t, void* const (&)[32]) {
  warp.products.committed = warp.products.issued;
  warp.products.ends.push_back(warp.products.issued);
  return true;
}

bool run_wait(Warp& warp, uint32_t, void* const (&arguments)[32]) {
  const size_t pending = static_cast<size_t>(*static_cast<const int*>(arguments[0]));
  WarpProducts& own = warp.products;
  own.target = own.delivered;
  while (own.ends.size() > pending) {
    own.target = own.ends.front();
    own.ends.pop_front();
  }
  own.waiting = !deliver(warpgroup_of(warp, "wgmma.wait_group"), warp);
  return !own.waiting;
}

const Collective kWgmma{"wgmma", run_wgmma};
const Collective kFence{"wgmma.fence", run_fence};
const Collective kCommit{"wgmma.commit_group", run_commit};
const Collective kWait{"wgmma.wait_group", run_wait};

}  // namespace

void wgmma(const WgmmaArguments& arguments) {
  require_hopper("wgmma");
  WgmmaArguments argument = arguments;
  converge(kWgmma, kWholeWarp, &argument);
}

void wgmma_fence() {
  require_hopper("wgmma.fence");
  converge(kFence, kWholeWarp, nullptr);
}

void wgmma_commit() {
  require_hopper("wgmma.commit_group");
  converge(kCommit, kWholeWarp, nullptr);
}

void wgmma_wait(int pending) {
  require_hopper("wgmma.wait_group");
  converge(kWait, kWholeWarp, &pending);
}

void start_warpgroups(Block& block) {
  for (size_t i = 0; i + 4 <= block.warps.size(); i += 4) {
    Warpgroup group;
    group.block = &block;
    for (size_t j = 0; j < 4; ++j) group.warps[j] = &block.warps[i + j];
    group.agent =
        machine->new_agent("wgmma of warpgroup " + std::to_string(i / 4) + " of block " + std::to_string(block.rank) + " of the cluster");
    block.warpgroups.push_back(std::move(group));
  }
}

void check_ended(const Warp& warp) {
  if (warp.products.delivered != warp.products.issued) {
    fail(cudaErrorLaunchFailure, "the warp ends with %u products by wgmma that it has not waited for",
         warp.products.issued - warp.products.delivered);
  }
}

// ----------------------------------------------------------------------------------------------------------------------- setmaxnreg

namespace {

struct SetRegisters {
  uint32_t count;
  bool raise;
};

bool take_registers(Warp& warp) {
  const uint32_t more = 32 * (warp.wanted_registers - warp.registers);
  if (more > warp.block->free_registers) return false;
  warp.block->free_registers -= more;
  warp.registers = warp.wanted_registers;
  return true;
}

bool run_set_registers(Warp& warp, uint32_t, void* const (&arguments)[32]) {
  warpgroup_of(warp, "setmaxnreg");
  const SetRegisters& set = *static_cast<const SetRegisters*>(arguments[0]);
  if (set.raise ? set.count < warp.registers : set.count > warp.registers) {
    fail(cudaErrorLaunchFailure, "setmaxnreg.%s to %u registers of a warp that has %u", set.raise ? "inc" : "dec", set.count,
         warp.registers);
  }
  std::vector<Warp*>& wanting = warp.block->wanting_registers;
  if (set.raise) {
    warp.wanted_registers = set.count;
    if (take_registers(warp)) return true;
    wanting.push_back(&warp);
    return false;
  }
  warp.block->free_registers += 32 * (warp.registers - set.count);
  warp.registers = set.count;
  for (size_t i = 0; i < wanting.size();) {
    if (!take_registers(*wanting[i])) {
      ++i;
      continue;
    }
    for (Thread* thread : wanting[i]->threads) machine->wake(*thread);
    wanting.erase(wanting.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return true;
}

const Collective kSetRegisters{"setmaxnreg", run_set_registers};

}  // namespace

void set_registers(int count, bool raise) {
  require_hopper("setmaxnreg");
  SetRegisters argument{static_cast<uint32_t>(count), raise};
  converge(kSetRegisters, kWholeWarp, &argument);
}

}  // namespace ulp::emulator
