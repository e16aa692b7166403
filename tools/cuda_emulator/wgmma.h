// Matrix products of a warpgroup: issued by its four warps one after the other, run when one of them waits.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <type_traits>
#include <vector>

#include "clocks.h"

namespace ulp::emulator {

struct Block;
struct Warp;

// What a lane gives to wgmma.
struct WgmmaArguments {
  int* d;
  const uint32_t* a;
  uint64_t b;
  int columns;
  bool b_unsigned;
  bool accumulate;
};

// Registers of the lanes of one warp, by address.
template <typename T>
struct Registers {
  std::array<T*, 32> lanes;
  int count;                                   // a lane
  std::vector<std::remove_const_t<T>> values;  // as last seen, lane by lane
};

// Accumulators that products in flight write: not to be touched until a wait, and made unrecognisable.
struct Accumulators {
  Registers<int> registers;  // and what they were filled with
  std::vector<int> values;   // what the products have made of them so far
  uint32_t last;             // product that writes them
};

struct Product {
  uint64_t b;
  int columns;
  bool b_unsigned;
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

// A warp's part of it.
struct WarpProducts {
  uint32_t issued = 0;
  uint32_t committed = 0;  // products in groups
  uint32_t delivered = 0;  // products waited for
  uint32_t target = 0;     // products that it waits for just now
  bool waiting = false;
  std::deque<uint32_t> ends;  // of groups that are not waited for, one past the last product
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

// Faults where a warp ends with products that nobody waited for.
void check_ended(const Warp& warp);

}  // namespace ulp::emulator
