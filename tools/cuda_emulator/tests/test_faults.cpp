// Kernels that are broken on purpose, with instructions of every architecture: the emulator must find the fault.
#include "cuda/ptx.cuh"
#include "test.h"

namespace ulp::emulator::test {
namespace {

namespace ptx = ulp::cuda::ptx;

uint32_t lane() { return threadIdx.x % 32; }
uint32_t slot(uint32_t i) { return ptx::shared_base() + 16 * i; }

// ---------------------------------------------------------------------------------------------------------------------- cp.async

enum class Wait { everything, one_too_few, uncommitted, none, no_barrier };

void copies_kernel(const uint32_t* from, uint32_t* to, Wait wait) {
  const uint32_t thread = threadIdx.x;
  for (uint32_t group = 0; group < 2; ++group) {
    ptx::copy_async16(slot(64 * group + thread), from + 4 * (64 * group + thread), 16);
    if (wait != Wait::uncommitted || group == 0) ptx::commit_copies();
  }
  if (wait == Wait::one_too_few) ptx::wait_copies<1>();
  else if (wait != Wait::none) ptx::wait_copies<0>();
  if (wait != Wait::no_barrier) __syncthreads();
  const uint4 got = ptx::load_shared4(slot(64 + (thread ^ 32)));
  to[thread] = got.x + got.w;
}

ULP_TEST(copies_land_when_waited_for) {
  const auto values = random_values<uint32_t>(512, 1);
  const Buffer<uint32_t> from(values);
  const Buffer<uint32_t> to(64);
  const Shape shape{1, 64};
  for (const int arch : {75, 80, 90}) {
    configure(arch);
    expect_success(shape, copies_kernel, from.data(), to.data(), Wait::everything);
    const auto got = to.values();
    for (size_t i = 0; i < 64; ++i) require(got[i] == values[4 * (64 + (i ^ 32))] + values[4 * (64 + (i ^ 32)) + 3], "value");
  }
}

ULP_TEST(copies_not_waited_for) {
  const Buffer<uint32_t> from(512);
  const Buffer<uint32_t> to(64);
  const Shape shape{1, 64};
  configure(80);
  const char* const text = "into which a copy is under way that nobody has waited for";
  expect_fault(text, shape, copies_kernel, from.data(), to.data(), Wait::none);
  expect_fault(text, shape, copies_kernel, from.data(), to.data(), Wait::one_too_few);
  expect_fault(text, shape, copies_kernel, from.data(), to.data(), Wait::uncommitted);
  // Before sm_80, copies go through registers and are complete at once.
  configure(75);
  expect_success(shape, copies_kernel, from.data(), to.data(), Wait::none);
}

ULP_TEST(copies_seen_by_their_own_thread_only) {
  const Buffer<uint32_t> from(512);
  const Buffer<uint32_t> to(64);
  configure(80);
  // The other thread's copy is not begun (unwritten), under way, or waited for (a race): each is a fault.
  expect_fault("reads shared word", Shape{1, 64}, copies_kernel, from.data(), to.data(), Wait::no_barrier);
}

void copy_kernel(const unsigned char* from, uint32_t shared, int bytes) {
  if (threadIdx.x == 0) ptx::copy_async16(ptx::shared_base() + shared, from, bytes);
  ptx::commit_copies();
  ptx::wait_copies<0>();
}

ULP_TEST(copies_out_of_bounds) {
  const Buffer<unsigned char> from(100);
  expect_success(Shape{}, copy_kernel, from.data() + 96, 0u, 4);
  expect_fault(Found::always, cudaErrorIllegalAddress, "8 bytes at byte 96 of an allocation of 100", Shape{}, copy_kernel, from.data() + 96,
               0u, 8);
  expect_fault(Found::always, cudaErrorIllegalAddress, "in no allocation", Shape{}, copy_kernel, from.data() + 112, 0u, 1);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "no multiple of 16", Shape{}, copy_kernel, from.data() + 8, 0u, 8);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "no multiple of 16", Shape{}, copy_kernel, from.data(), 8u, 8);
  expect_fault(Found::always, cudaErrorIllegalAddress, "lie outside the block's", Shape{}, copy_kernel, from.data(), 4096u, 8);
}

void short_copy_kernel(const unsigned char* from, uint32_t* to) {
  ptx::copy_async16(slot(lane()), from, static_cast<int>(lane() % 17));
  ptx::commit_copies();
  ptx::wait_copies<0>();
  const uint4 got = ptx::load_shared4(slot(lane()));
  to[4 * lane()] = got.x;
  to[4 * lane() + 1] = got.y;
  to[4 * lane() + 2] = got.z;
  to[4 * lane() + 3] = got.w;
}

ULP_TEST(short_copies_end_in_zeros) {
  const auto values = random_values<unsigned char>(16, 3);
  const Buffer<unsigned char> from(values);
  const Buffer<uint32_t> to(128);
  expect_success(Shape{}, short_copy_kernel, from.data(), to.data());
  const auto got = to.values();
  for (uint32_t i = 0; i < 512; ++i) {
    const uint32_t expected = i % 16 < i / 16 % 17 ? values[i % 16] : 0;
    require((got[i / 4] >> 8 * (i % 4) & 255) == expected, "byte " + std::to_string(i));
  }
}

// ------------------------------------------------------------------------------------------------------------------ shared memory

void shared_kernel(uint32_t write, uint32_t read) {
  ptx::store_shared(ptx::shared_base() + write, 1);
  ptx::load_shared2(ptx::shared_base() + read);
}

ULP_TEST(shared_memory_faults) {
  const Shape one{1, 1, 64};
  expect_fault("nobody has written", one, shared_kernel, 0u, 0u);  // the second word
  expect_fault(Found::always, cudaErrorIllegalAddress, "store_shared: shared bytes 0x440", one, shared_kernel, 64u, 0u);
  expect_fault(Found::always, cudaErrorIllegalAddress, "load_shared2", one, shared_kernel, 0u, 64u);
  expect_fault(Found::always, cudaErrorIllegalAddress, "store_shared", one, shared_kernel, 0u - 4u, 0u);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "store_shared to", one, shared_kernel, 2u, 0u);
  expect_fault(Found::always, cudaErrorMisalignedAddress, "load_shared2 of", one, shared_kernel, 0u, 4u);
}

enum class Order { block, warp, none, shuffle };

// Every thread writes a slot; the thread `distance` further on reads it; then the owner writes it again.
void exchange_kernel(uint32_t distance, Order after_write, Order after_read) {
  const auto order = [](Order what) {
    if (what == Order::block) __syncthreads();
    if (what == Order::warp) __syncwarp();
    if (what == Order::shuffle) __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
  };
  ptx::store_shared(slot(threadIdx.x), threadIdx.x);
  order(after_write);
  ptx::load_shared(slot(threadIdx.x ^ distance));
  order(after_read);
  ptx::store_shared(slot(threadIdx.x), 7);
}

ULP_TEST(races_between_warps) {
  const Shape shape{1, 128};
  expect_success(shape, exchange_kernel, 32u, Order::block, Order::block);
  expect_fault("reads shared word", shape, exchange_kernel, 32u, Order::none, Order::block);
  expect_fault("reads shared word", shape, exchange_kernel, 32u, Order::warp, Order::block);
  expect_fault("race: ", shape, exchange_kernel, 32u, Order::block, Order::warp);
  expect_fault("race: ", shape, exchange_kernel, 32u, Order::block, Order::none);
}

ULP_TEST(races_within_a_warp) {
  expect_success(Shape{}, exchange_kernel, 1u, Order::warp, Order::warp);
  expect_success(Shape{}, exchange_kernel, 0u, Order::none, Order::none);
  expect_fault("reads shared word", Shape{}, exchange_kernel, 1u, Order::none, Order::warp);
  expect_fault("race: ", Shape{}, exchange_kernel, 1u, Order::warp, Order::none);
  expect_fault("race: ", Shape{}, exchange_kernel, 1u, Order::shuffle, Order::warp);
}

ULP_TEST(races_can_be_left_alone) {
  ulp_emulator_detect_races(0);
  expect_success(Shape{}, exchange_kernel, 1u, Order::warp, Order::none);
  ulp_emulator_detect_races(1);
}

// -------------------------------------------------------------------------------------------------------------------------- warps

enum class Divergence { none, two_instructions, ended, mask, shuffle_source, threads_barrier };

void diverging_kernel(Divergence what) {
  ptx::store_shared(slot(lane()), lane());
  ptx::store_shared(slot(lane()) + 4, lane());
  ptx::store_shared(slot(lane()) + 8, lane());
  ptx::store_shared(slot(lane()) + 12, lane());
  __syncwarp();
  uint32_t values[4];
  int d[4] = {};
  if (what == Divergence::two_instructions && lane() > 3) ptx::mma_s8(d, {1, 2, 3, 4}, 5, 6);
  if (what == Divergence::ended && lane() == 9) return;
  if (what == Divergence::mask) __shfl_sync(0xFFFFu, 1, 0);
  if (what == Divergence::shuffle_source && lane() < 16) __shfl_sync(0xFFFFu, 1, 20);
  if (what == Divergence::threads_barrier && lane() == 0) __syncthreads();
  ptx::load_matrix4(values, slot(lane()));
}

ULP_TEST(lanes_that_diverge) {
  expect_success(Shape{}, diverging_kernel, Divergence::none);
  expect_fault("lanes diverge", Shape{}, diverging_kernel, Divergence::two_instructions);
  expect_fault("end", Shape{}, diverging_kernel, Divergence::ended);
  expect_fault("lacks the lane", Shape{}, diverging_kernel, Divergence::mask);
  expect_fault("lane", Shape{}, diverging_kernel, Divergence::shuffle_source);
  expect_fault("lanes diverge", Shape{}, diverging_kernel, Divergence::threads_barrier);
}

void shuffles_kernel(uint32_t* out) {
  out[lane()] = __shfl_xor_sync(0xFFFFFFFFu, lane(), 12);
  out[32 + lane()] = __shfl_sync(0xFFFFFFFFu, lane(), 3, 8);
  const float sign = lane() % 2 == 0 ? __shfl_sync(0x55555555u, 1.5f, 2) : __shfl_sync(0xAAAAAAAAu, -2.5f, 1);
  out[64 + lane()] = __float_as_uint(sign);
}

ULP_TEST(shuffles_exchange_lanes) {
  const Buffer<uint32_t> out(96);
  expect_success(Shape{}, shuffles_kernel, out.data());
  const auto got = out.values();
  for (uint32_t i = 0; i < 32; ++i) {
    require(got[i] == (i ^ 12) && got[32 + i] == (i & ~7u) + 3, "integers");
    require(got[64 + i] == (i % 2 == 0 ? 0x3FC00000u : 0xC0200000u), "floats");
  }
}

void warps_kernel(int* out) {
  if (threadIdx.x >= 96) return;
  __syncthreads();
  if (threadIdx.x < 32) return;
  __syncthreads();
  if (threadIdx.x == 32) atomicAdd(out, 1);
}

ULP_TEST(blocks_wait_for_warps_that_have_not_ended) {
  const Buffer<int> out(std::vector<int>{0});
  expect_success(Shape{3, 128}, warps_kernel, out.data());
  require(out.values()[0] == 8 * 3, "every block in each of the orders");
}

// --------------------------------------------------------------------------------------------------------------------- the rest

void where_kernel(uint32_t* out) {
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const uint32_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

ULP_TEST(every_thread_of_every_block_runs_once) {
  const Buffer<uint32_t> out(30 * 96);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(5, 3, 2);
  config.blockDim = dim3(8, 4, 3);
  require(cudaLaunchKernelEx(&config, where_kernel, out.data()) == cudaSuccess, "launch");
  const auto got = out.values();
  for (uint32_t i = 0; i < got.size(); ++i) require(got[i] == i / 96 * 1000 + i % 96, "thread " + std::to_string(i));
}

void store_kernel(unsigned char* out, int offset) {
  __syncwarp();
  if (threadIdx.x == 7) out[offset] = 1;
}

// Not under AddressSanitizer, which ends the program.
#if !defined(__SANITIZE_ADDRESS__)
ULP_TEST(stores_past_an_allocation) {
  const Buffer<unsigned char> out(100);
  expect_success(Shape{}, store_kernel, out.data(), 99);
  for (const int offset : {100, 131, -1, -200}) {
    const std::string text = "stored to byte " + std::to_string(offset) + " of an allocation of 100 bytes";
    expect_fault(Found::always, cudaErrorIllegalAddress, text.c_str(), Shape{}, store_kernel, out.data(), offset);
  }
}
#endif

void trap_kernel(int* out) {
  if (blockIdx.x == 2 && threadIdx.x == 5) __trap();
  atomicMin(out + blockIdx.x, static_cast<int>(threadIdx.x) - 40);
}

ULP_TEST(faults_say_where_and_launches_work_again) {
  const Buffer<int> out(3);
  expect_fault(Found::always, cudaErrorIllegalInstruction, "block (2, 0, 0) thread (5, 0, 0) = warp 0 lane 5: __trap()", Shape{3},
               trap_kernel, out.data());
  expect_success(Shape{2}, trap_kernel, out.data());
  require(out.values()[1] == std::min(-40, static_cast<int>(0xA5A5A5A5u)), "poison is below");
  expect_fault(Found::always, cudaErrorIllegalAddress, "atomic operation", Shape{4, 1}, trap_kernel, out.data());
}

ULP_TEST(rounding_is_to_even_and_saturates) {
  const std::pair<float, int> cases[] = {{0.5f, 0},         {1.5f, 2},          {-2.5f, -2},
                                         {3e9f, INT32_MAX}, {-3e9f, INT32_MIN}, {2147483520.0f, 2147483520}};
  for (const auto& [from, to] : cases) require(__float2int_rn(from) == to, std::to_string(from));
  require(__float2int_rn(std::numeric_limits<float>::quiet_NaN()) == 0, "NaN");
}

}  // namespace
}  // namespace ulp::emulator::test
