// Matrix products of warpgroups with their synchronisation broken on purpose, and registers that move between warpgroups.
#include "cuda/ptx_sm90.cuh"
#include "test.h"

namespace ulp::emulator::test {
namespace {

namespace ptx = ulp::cuda::ptx;
using ulp::cuda::Unit;

constexpr int kColumns = 32;

enum class Fault {
  none,
  no_fence,
  no_fence_after_a,
  no_fence_after_d,
  no_wait,
  no_commit,
  a_written,
  d_written,
  d_overlaps,
  no_proxy_fence,
  no_barrier,
  b_written,
  lanes_differ,
  warps_differ,
  warp_missing,
  crooked,
  unwritten,
};

// Two products one after the other, 64 x 32 x 32 each; wgmma_wait<1> waits for the first while the second is under way.
void products_kernel(int* out, Fault fault) {
  const uint32_t thread = threadIdx.x;
  const uint32_t b = ptx::shared_base();
  for (uint32_t i = thread; i < kColumns * 128 / 16; i += blockDim.x) {
    if (fault != Fault::unwritten || i != 73) ptx::store_shared4(b + 16 * i, make_uint4(i, i, i, i));
  }
  if (fault != Fault::no_proxy_fence) fence_proxy_async();
  if (fault != Fault::no_barrier) __syncthreads();
  int d[kColumns / 2 + 4] = {};
  int (&sums)[kColumns / 2] = *reinterpret_cast<int (*)[kColumns / 2]>(d);
  uint32_t even[4] = {thread, 1, 2, 3};
  uint32_t odd[4] = {3, thread, 1, 2};
  uint64_t descriptor = ptx::swizzled_descriptor(b);
  if (fault == Fault::lanes_differ && thread == 40) descriptor += 2;
  if (fault == Fault::warps_differ && thread / 32 == 1) descriptor += 2;
  if (fault == Fault::crooked) descriptor += 8;

  if (fault == Fault::warp_missing && thread / 32 == 2) return;
  if (fault != Fault::no_fence) ptx::wgmma_fence();
  ptx::wgmma<kColumns, Unit::s8>(sums, even, descriptor, false);
  ptx::wgmma_commit();
  if (fault == Fault::a_written) even[1] = thread + 2;
  if (fault == Fault::d_written) d[5] += 1;
  if (fault == Fault::d_overlaps)
    ptx::wgmma<kColumns, Unit::s8>(*reinterpret_cast<int (*)[kColumns / 2]>(d + 4), odd, descriptor + 2, true);
  ptx::wgmma<kColumns, Unit::s8>(sums, odd, descriptor + 2, true);
  if (fault != Fault::no_commit) ptx::wgmma_commit();
  ptx::wgmma_wait<1>();
  if (fault == Fault::no_fence_after_a) {
    even[0] = 17;
    ptx::wgmma<kColumns, Unit::s8>(sums, even, descriptor, true);
    ptx::wgmma_commit();
  }
  if (fault == Fault::b_written && thread == 0) ptx::store_shared(b + 32, 5);
  if (fault != Fault::no_wait) ptx::wgmma_wait<0>();
  if (fault == Fault::no_fence_after_d) {
    d[1] = 0;
    ptx::wgmma<kColumns, Unit::s8>(sums, even, descriptor, true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
  }
  for (int i = 0; i < kColumns / 2; ++i) out[static_cast<int>(thread) * kColumns / 2 + i] = d[i];
}

ULP_TEST(products_in_a_wrong_order) {
  const Buffer<int> out(256 * kColumns / 2);
  const Shape shape{1, 256, 8192};
  const auto faults = [&](Fault fault, const char* text, cudaError_t error = cudaErrorLaunchFailure) {
    expect_fault(Found::always, error, text, shape, products_kernel, out.data(), fault);
  };
  expect_success(shape, products_kernel, out.data(), Fault::none);
  faults(Fault::no_fence, "before any wgmma_fence");
  faults(Fault::no_fence_after_a, "A registers of lane 0 were written after the last wgmma_fence");
  faults(Fault::no_fence_after_d, "accumulators of lane 0 were written after the last wgmma_fence");
  faults(Fault::no_wait, "products by wgmma that it has not waited for");
  faults(Fault::no_commit, "products by wgmma that it has not waited for");
  faults(Fault::a_written, "A registers of lane 0 were written before the product was waited for");
  faults(Fault::d_written, "accumulators of lane 0 were written before the product was waited for");
  faults(Fault::d_overlaps, "accumulators that overlap");
  faults(Fault::no_proxy_fence, "no proxy fence lies between");
  faults(Fault::no_barrier, "wgmma reads shared word");
  faults(Fault::b_written, "race: store_shared writes shared word 0x420, which wgmma of warpgroup");
  faults(Fault::lanes_differ, "lanes 0 and 8 differ");
  faults(Fault::warps_differ, "the warps of the warpgroup differ");
  faults(Fault::warp_missing, "wait for wgmma.wait_group", cudaErrorLaunchTimeout);
  faults(Fault::crooked, "do not start at a multiple of 1024", cudaErrorMisalignedAddress);
  faults(Fault::unwritten, "nobody has written");
  configure(100);
  faults(Fault::none, "sm_100 has no ", cudaErrorIllegalInstruction);
}

void part_kernel() {
  const uint32_t a[4] = {};
  int d[8];
  ptx::wgmma_fence();
  ptx::wgmma<16, Unit::u8>(d, a, ptx::swizzled_descriptor(ptx::shared_base()), false);
}

ULP_TEST(products_need_a_whole_warpgroup) { expect_fault("whose warpgroup is not whole", Shape{1, 96}, part_kernel); }

// 384 threads start with 168 registers each.
template <int kLess, int kMore>
void registers_kernel() {
  if (threadIdx.x < 128) ptx::lower_registers<kLess>();
  else ptx::raise_registers<kMore>();
}

ULP_TEST(registers_come_from_a_pool) {
  const Shape shape{1, 384};
  expect_success(shape, registers_kernel<40, 232>);
  expect_fault(Found::always, cudaErrorLaunchTimeout, "wait for setmaxnreg", shape, registers_kernel<40, 240>);
  expect_fault("setmaxnreg.dec to 176 registers of a warp that has 168", shape, registers_kernel<176, 168>);
  expect_fault("setmaxnreg.inc to 160 registers of a warp that has 168", shape, registers_kernel<160, 160>);
}

}  // namespace
}  // namespace ulp::emulator::test
