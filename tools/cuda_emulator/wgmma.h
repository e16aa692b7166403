// Matrix products of a warpgroup: issued by its four warps one after the other, computed when one of them waits.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <type_traits>
#include <vector>

#include "clocks.h"
#include "cuda/tiles.h"

namespace ulp::emulator {

struct Block;
struct Warp;

// A lane's arguments of wgmma.
struct WgmmaArguments {
  int* d;
  const uint32_t* a;
  uint64_t b;
  int columns;
  cuda::Unit unit;
  bool accumulate;
};

// Registers of the lanes of one warp, by address.
template <typename T>
struct Registers {
  std::array<T*, 32> lanes;
  int count;                                   // per lane
  std::vector<std::remove_const_t<T>> values;  // as last seen, lane by lane
};

// Accumulators of products in flight: filled with noise, and not to be touched until a wait.
struct Accumulators {
  Registers<int> registers;  // and the noise
  std::vector<int> values;   // the products' results so far
  uint32_t last;             // product that writes them
};

struct Product {
  uint64_t b;
  int columns;
  cuda::Unit unit;
  bool run = false;
  int issued = 0;  // warps
  // By warp.
  bool accumulate[4];
  Registers<const uint32_t> a[4];
  Accumulators* d[4];
};

struct Warpgroup {
  Block* block = nullptr;
  uint32_t agent = 0;  // product i reads as {agent, i + 1}
  std::array<Warp*, 4> warps;
  uint32_t first = 0;  // number of products.front()
  std::deque<Product> products;
};

// The state of one warp.
struct WarpProducts {
  uint32_t issued = 0;
  uint32_t committed = 0;  // products in committed groups
  uint32_t delivered = 0;  // products waited for
  uint32_t target = 0;     // products that its current wait is for
  bool waiting = false;
  std::deque<uint32_t> ends;  // of groups without a wait yet: one past the last product
  bool fenced = false;        // ever
  std::vector<std::unique_ptr<Accumulators>> flying;
  // Registers seen before, as of the last fence or delivery.
  std::vector<Registers<int>> known_d;
  std::vector<Registers<const uint32_t>> known_a;
};

void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
void wgmma(const WgmmaArguments& arguments);
void set_registers(int count, bool raise);

void start_warpgroups(Block& block);

// Faults if a warp ends with products that it has not waited for.
void check_ended(const Warp& warp);

}  // namespace ulp::emulator
