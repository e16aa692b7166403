// mbarriers, bulk and tensor copies, clusters: used correctly, and broken on purpose.
#include <algorithm>

#include "cuda/ptx_sm90.cuh"
#include "test.h"

namespace ulp::emulator::test {
namespace {

namespace ptx = ulp::cuda::ptx;

constexpr uint32_t kTile = 1024;  // bytes
constexpr int kStages = 2;

uint32_t tile(int stage) { return ptx::shared_base() + static_cast<uint32_t>(stage) * kTile; }
uint32_t full(int stage) { return ptx::shared_base() + kStages * kTile + static_cast<uint32_t>(stage) * 16; }
uint32_t empty(int stage) { return full(stage) + 8; }

enum class Fault {
  none,
  no_fence_of_barriers,
  no_sync_of_barriers,
  bytes_too_many,
  bytes_too_few,
  no_wait,
  wrong_parity,
  released_early,
  released_without_warp,
  arrival_too_many,
  not_released,
  never_waited,
};

// A ring of two stages: lane 0 of warp 1 copies tiles, warp 0 sums them.
void ring_kernel(const unsigned char* from, uint32_t* sums, int tiles, Fault fault) {
  const uint32_t lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::barrier_init(full(stage), 1);
      ptx::barrier_init(empty(stage), fault == Fault::released_early ? 2 : 1);
    }
    if (fault != Fault::no_fence_of_barriers) ptx::fence_barrier_init();
  }
  if (fault != Fault::no_sync_of_barriers) __syncthreads();
  if (threadIdx.x >= 32) {
    if (lane != 0) return;
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kStages;
      const uint32_t turn = static_cast<uint32_t>(i / kStages) & 1;
      ptx::barrier_wait(empty(stage), turn ^ 1);
      if (fault == Fault::released_early && i < kStages) ptx::barrier_arrive_remote(empty(stage), 0);
      const uint32_t expected = fault == Fault::bytes_too_many ? kTile + 16 : fault == Fault::bytes_too_few ? kTile / 2 : kTile;
      ptx::barrier_arrive_expect(full(stage), expected);
      ptx::bulk_copy(tile(stage), from + static_cast<uint32_t>(i) * kTile, kTile / 2, full(stage));
      ptx::bulk_copy(tile(stage) + kTile / 2, from + static_cast<uint32_t>(i) * kTile + kTile / 2, kTile / 2, full(stage));
      if (fault == Fault::arrival_too_many) ptx::barrier_arrive_expect(full(stage), 0);
    }
    return;
  }
  if (fault == Fault::never_waited) return;
  uint32_t sum = 0;
  for (int i = 0; i < tiles; ++i) {
    const int stage = i % kStages;
    const uint32_t turn = static_cast<uint32_t>(i / kStages) & 1;
    if (fault != Fault::no_wait) ptx::barrier_wait(full(stage), fault == Fault::wrong_parity ? turn ^ 1 : turn);
    if (fault == Fault::released_early && lane == 0) ptx::barrier_arrive_remote(empty(stage), 0);
    for (uint32_t word = lane; word < kTile / 4; word += 32) sum += ptx::load_shared(tile(stage) + 4 * word);
    if (fault != Fault::released_without_warp) __syncwarp();
    const bool releases = fault == Fault::released_early ? i >= kStages : fault != Fault::not_released;
    if (lane == 0 && releases) ptx::barrier_arrive_remote(empty(stage), 0);
  }
  sums[lane] = sum;
}

ULP_TEST(ring_of_bulk_copies) {
  constexpr int kTiles = 7;
  const auto bytes = random_values<unsigned char>(kTiles * kTile, 1);
  const Buffer<unsigned char> from(bytes);
  const Buffer<uint32_t> sums(32);
  const Shape shape{2, 64};
  const auto faults = [&](Fault fault, const char* text, cudaError_t error = cudaErrorLaunchFailure) {
    expect_fault(Found::always, error, text, shape, ring_kernel, from.data(), sums.data(), kTiles, fault);
  };

  expect_success(shape, ring_kernel, from.data(), sums.data(), kTiles, Fault::none);
  const auto got = sums.values();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    uint32_t sum = 0;
    for (uint32_t i = 4 * lane; i < bytes.size(); i += 128) {
      for (uint32_t b = 0; b < 4; ++b) sum += uint32_t{bytes[i + b]} << 8 * b;
    }
    require(sum == got[lane], "sum of lane " + std::to_string(lane));
  }

  faults(Fault::no_fence_of_barriers, "whose initialisation no fence_barrier_init has announced");
  faults(Fault::no_sync_of_barriers, "barrier");  // not initialised yet, or a race
  faults(Fault::bytes_too_many, "deadlock", cudaErrorLaunchTimeout);
  faults(Fault::bytes_too_few, "copy");  // lands too late, or was read before
  faults(Fault::no_wait, "");            // unwritten, under way or a race
  faults(Fault::wrong_parity, "");
  faults(Fault::released_without_warp, "race: cp.async.bulk writes shared word");
  faults(Fault::arrival_too_many, "an arrival more than the 1 of phase");
  faults(Fault::not_released, "deadlock", cudaErrorLaunchTimeout);
  expect_fault(Found::sometimes, cudaErrorLaunchFailure, "the last thread of the block ends while a copy", shape, ring_kernel, from.data(),
               sums.data(), kStages, Fault::never_waited);
}

ULP_TEST(released_before_it_is_read) {
  const Buffer<unsigned char> from(7 * kTile);
  const Buffer<uint32_t> sums(32);
  expect_fault(Found::sometimes, cudaErrorLaunchFailure, "", Shape{1, 64}, ring_kernel, from.data(), sums.data(), 7, Fault::released_early);
}

ULP_TEST(deadlock_report_says_who_waits_where) {
  const Buffer<unsigned char> from(7 * kTile);
  const Buffer<uint32_t> sums(32);
  const Shape shape{1, 64};
  require(run(shape, ring_kernel, from.data(), sums.data(), 7, Fault::not_released) == cudaErrorLaunchTimeout, "deadlock");
  const std::string report = ulp_emulator_last_message();
  for (const char* const line : {"block (0, 0, 0) warp 0 lanes 0-31 wait for barrier 0xc00 to end a phase of parity 1",
                                 "block (0, 0, 0) warp 1 lanes 0 wait for barrier 0xc08 to end a phase of parity 0",
                                 "barrier 0xc08 is in phase 0 (parity 0): 1 of 1 arrivals and 0 bytes to come"}) {
    require(report.find(line) != std::string::npos, report);
  }
  ulp_emulator_reset();
}

// One thread waits for phase 0, the other ends two phases at once.
void overrun_kernel() {
  if (threadIdx.x == 0) ptx::barrier_init(full(0), 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    ptx::barrier_wait(full(0), 0);
  } else if (threadIdx.x == 32) {
    ptx::barrier_arrive_expect(full(0), 0);
    ptx::barrier_arrive_expect(full(0), 0);
  }
}

ULP_TEST(phases_that_outrun_a_waiter) {
  ulp_emulator_seed(1);
  int overrun = 0;
  int stuck = 0;
  for (int i = 0; i < 64; ++i) {
    ulp_emulator_reset();
    const cudaError_t error = run(Shape{1, 64}, overrun_kernel);
    overrun += error == cudaErrorLaunchFailure;
    stuck += error == cudaErrorLaunchTimeout;  // if it began to wait too late
  }
  ulp_emulator_reset();
  require(overrun > 0 && stuck > 0, "overrun " + std::to_string(overrun) + ", stuck " + std::to_string(stuck));
}

void barrier_kernel(uint32_t offset, uint32_t arrivals, uint32_t parity, bool as_data) {
  ptx::barrier_init(ptx::shared_base() + offset, arrivals);
  ptx::barrier_wait(ptx::shared_base() + offset, parity);
  if (as_data) ptx::load_shared(ptx::shared_base() + offset);
  ptx::barrier_wait(ptx::shared_base() + offset + 8, 1);
}

ULP_TEST(barriers_are_not_anything_else) {
  const Shape one{1, 1};
  expect_fault("no mbarrier was initialised", one, barrier_kernel, 0u, 1u, 1u, false);
  expect_fault("part of an mbarrier", one, barrier_kernel, 0u, 1u, 1u, true);
  expect_fault("with parity 2", one, barrier_kernel, 0u, 1u, 2u, false);
  expect_fault("with 0 arrivals", one, barrier_kernel, 0u, 0u, 1u, false);
  expect_fault("with 1048576 arrivals", one, barrier_kernel, 0u, 1u << 20, 1u, false);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "no multiple of 8", one, barrier_kernel, 4u, 1u, 1u, false);
  configure(89);
  expect_fault(Found::always, cudaErrorIllegalInstruction, "sm_89 has no mbarrier.init", one, barrier_kernel, 0u, 1u, 1u, false);
}

// -------------------------------------------------------------------------------------------------------------------- tensor maps

struct MapArguments {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  cuuint32_t rank = 2;
  uint64_t offset = 0;
  cuuint64_t sizes[2] = {200, 50};
  cuuint64_t stride = 208;
  cuuint32_t box[2] = {128, 16};
  cuuint32_t steps[2] = {1, 1};
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
};

CUresult encode(CUtensorMap& map, const unsigned char* data, const MapArguments& with) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  require(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) == cudaSuccess &&
              found == cudaDriverEntryPointSuccess,
          "entry point");
  const auto call = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  return call(&map, with.type, with.rank, const_cast<unsigned char*>(data) + with.offset, with.sizes, &with.stride, with.box, with.steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE, with.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// Every block copies `rows` rows of the box, from (x, y + its first row) on, to all blocks of the cluster, and returns its shared memory.
void tensor_kernel(const __grid_constant__ CUtensorMap map, int x, int y, uint32_t bytes, int blocks, uint32_t* out, bool leave_early) {
  const uint32_t barrier = ptx::shared_base() + 16384;
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&map);
    ptx::barrier_init(barrier, 1);
    ptx::fence_barrier_init();
  }
  __syncwarp();
  ptx::cluster_sync();
  const uint32_t rank = ptx::cluster_rank();
  const uint32_t total = bytes * static_cast<uint32_t>(blocks);
  if (threadIdx.x == 0) {
    ptx::barrier_arrive_expect(barrier, total);
    const uint32_t to = ptx::shared_base() + rank * bytes;
    if (blocks > 1) ptx::tensor_copy_multicast(to, &map, x, y, barrier, static_cast<uint16_t>((1 << blocks) - 1));
    else ptx::tensor_copy(to, &map, x, y, barrier);
  }
  __syncwarp();
  if (leave_early && rank == 1) return;
  ptx::barrier_wait(barrier, 0);
  for (uint32_t i = threadIdx.x; i < total / 4; i += 32) {
    out[blockIdx.x * (total / 4) + i] = ptx::load_shared(ptx::shared_base() + 4 * i);
  }
  ptx::cluster_sync();
}

void check_box(const MapArguments& with, int x, int y, int blocks) {
  const auto bytes = random_values<unsigned char>(208 * 50, 9);
  const Buffer<unsigned char> from(bytes);
  CUtensorMap map;
  require(encode(map, from.data(), with) == CUDA_SUCCESS, "encode");
  const uint32_t box = with.box[0] * with.box[1];
  const Buffer<uint32_t> out(static_cast<size_t>(blocks * blocks) * box / 4);
  expect_success(Shape{static_cast<unsigned>(blocks), 32, 17000, static_cast<unsigned>(blocks)}, tensor_kernel, map, x, y, box, blocks,
                 out.data(), false);
  const auto got = out.values();
  for (uint32_t i = 0; i < got.size() * 4; ++i) {
    const uint32_t at = i % box;
    const uint32_t row = at / with.box[0];
    // Units of 16 bytes within 128 bytes are permuted by one, two or three bits of the number of the 128-byte row.
    const uint32_t masks[] = {0, 1, 3, 7};
    const uint32_t unit = at / 16 % 8 ^ (at / 128 & masks[with.swizzle]);
    const uint32_t logical = at / 128 * 128 + unit * 16 + at % 16;
    const int64_t column = x + static_cast<int64_t>(logical % with.box[0]);
    const int64_t line = y + static_cast<int64_t>(logical / with.box[0]);
    const bool inside = column >= 0 && column < 200 && line >= 0 && line < 50;
    const unsigned char expected = inside ? bytes[static_cast<size_t>(line * 208 + column)] : 0;
    require((got[i / 4] >> 8 * (i % 4) & 255) == expected, "byte " + std::to_string(i) + " (row " + std::to_string(row) + ")");
  }
}

ULP_TEST(boxes_in_every_swizzle) {
  for (const auto& [x, y] : {std::pair{0, 0}, {16, 7}, {100, 40}, {-3, -5}, {300, 0}, {0, 60}}) {
    for (const int blocks : {1, 2, 4}) check_box({}, x, y, blocks);
    MapArguments with;
    with.box[0] = 64;
    with.swizzle = CU_TENSOR_MAP_SWIZZLE_64B;
    check_box(with, x, y, 1);
    with.box[0] = 32;
    with.swizzle = CU_TENSOR_MAP_SWIZZLE_32B;
    check_box(with, x, y, 2);
    with.swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
    check_box(with, x, y, 1);
  }
}

ULP_TEST(maps_that_the_driver_refuses) {
  const Buffer<unsigned char> from(208 * 50 + 16);
  CUtensorMap map;
  const auto refuse = [&](const char* what, auto change) {
    MapArguments with;
    change(with);
    require(encode(map, from.data(), with) == CUDA_ERROR_INVALID_VALUE, what);
  };
  refuse("stride", [](MapArguments& with) { with.stride = 200; });
  refuse("short stride", [](MapArguments& with) { with.stride = 192; });
  refuse("address", [](MapArguments& with) { with.offset = 8; });
  refuse("rank", [](MapArguments& with) { with.rank = 0; });
  refuse("empty", [](MapArguments& with) { with.sizes[1] = 0; });
  refuse("large box", [](MapArguments& with) { with.box[1] = 257; });
  refuse("wide box", [](MapArguments& with) { with.box[0] = 144; });
  refuse("crooked box", [](MapArguments& with) { with.box[0] = 24; });
  refuse("wide box of 32 bytes", [](MapArguments& with) { with.swizzle = CU_TENSOR_MAP_SWIZZLE_32B; });
  refuse("step", [](MapArguments& with) { with.steps[1] = 0; });
  require(encode(map, from.data(), {}) == CUDA_SUCCESS, "the rest");
}

ULP_TEST(tensor_copies_gone_wrong) {
  const Buffer<unsigned char> from(208 * 50);
  const Buffer<uint32_t> out(8192);
  CUtensorMap map{};
  const Shape two{2, 32, 17000, 2};
  expect_fault(Found::always, cudaErrorIllegalInstruction, "never encoded", two, tensor_kernel, map, 0, 0, 2048u, 2, out.data(), false);
  require(encode(map, from.data(), {}) == CUDA_SUCCESS, "encode");
  expect_success(two, tensor_kernel, map, 0, 0, 2048u, 2, out.data(), false);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "no multiple of 128", two, tensor_kernel, map, 0, 0, 2016u, 2, out.data(), false);
  expect_fault(Found::sometimes, cudaErrorLaunchFailure, "ends while a copy into its shared bytes", two, tensor_kernel, map, 0, 0, 2048u, 2,
               out.data(), true);
  MapArguments beyond;
  beyond.sizes[1] = 51;
  require(encode(map, from.data(), beyond) == CUDA_SUCCESS, "encode");
  expect_fault(Found::always, cudaErrorIllegalAddress, "of an allocation of 10400", two, tensor_kernel, map, 0, 0, 2048u, 2, out.data(),
               false);
}

// ----------------------------------------------------------------------------------------------------------------------- clusters

enum class Meeting { both, none_before, none_after };

void cluster_kernel(int* out, Meeting meeting) {
  const uint32_t rank = ptx::cluster_rank();
  const uint32_t own = ptx::shared_base() + 16 * threadIdx.x;
  const uint32_t value = rank * 1000 + threadIdx.x;
  ptx::store_shared4(own, make_uint4(value, value + 1, value + 2, value + 3));
  if (meeting != Meeting::none_before) ptx::cluster_sync();
  const int4 got = ptx::load_cluster4(own, rank ^ 1);
  out[blockIdx.x * blockDim.x + threadIdx.x] = got.x + got.w;
  if (meeting != Meeting::none_after) ptx::cluster_sync();
}

ULP_TEST(clusters_read_each_other) {
  const Buffer<int> out(4 * 64);
  const Shape shape{4, 64, 4096, 2};
  expect_success(shape, cluster_kernel, out.data(), Meeting::both);
  const auto got = out.values();
  for (int i = 0; i < 256; ++i) require(got[static_cast<size_t>(i)] == 2 * ((i / 64 % 2 ^ 1) * 1000 + i % 64) + 3, std::to_string(i));
  expect_fault("ld.shared::cluster reads shared word", shape, cluster_kernel, out.data(), Meeting::none_before);
  expect_fault(Found::sometimes, cudaErrorIllegalAddress, "of the cluster has ended", shape, cluster_kernel, out.data(),
               Meeting::none_after);
  expect_fault(Found::always, cudaErrorIllegalAddress, "rank 1 of a cluster of 1", Shape{2, 64, 4096, 1}, cluster_kernel, out.data(),
               Meeting::both);
}

// Two of four warps meet at a named barrier; with a wrong `threads` none passes.
void named_kernel(int* out, int threads, int last) {
  const uint32_t own = ptx::shared_base() + 4 * threadIdx.x;
  ptx::store_shared(own, threadIdx.x);
  ptx::barrier_sync(1 + static_cast<int>(threadIdx.x) / 64, threadIdx.x % 64 < 32 ? threads : last);
  out[threadIdx.x] = static_cast<int>(ptx::load_shared(ptx::shared_base() + 4 * (threadIdx.x ^ 32)));
}

ULP_TEST(named_barriers_order_their_threads) {
  const Buffer<int> out(128);
  const Shape shape{1, 128};
  expect_success(shape, named_kernel, out.data(), 64, 64);
  const auto got = out.values();
  for (int i = 0; i < 128; ++i) require(got[static_cast<size_t>(i)] == (i ^ 32), std::to_string(i));
  expect_fault("while others wait there for", shape, named_kernel, out.data(), 64, 96);
  expect_fault(Found::always, cudaErrorLaunchTimeout, "wait for bar.sync", shape, named_kernel, out.data(), 96, 96);
  expect_fault("multiple of 32", shape, named_kernel, out.data(), 60, 60);
  expect_fault("reads shared word", shape, named_kernel, out.data(), 32, 32);
}

}  // namespace
}  // namespace ulp::emulator::test
