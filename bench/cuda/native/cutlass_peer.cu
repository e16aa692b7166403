// CUTLASS's int8 kernels for Hopper behind C functions: out (m x n, int32, row by row) = a (m x k) times b (n x k), K adjacent in both.
// ULP_VARIANT chooses one of the tiles below; every variant is a library of its own, so that they compile side by side. Compile with
// -DNDEBUG: CUTLASS's device-side assertions cost several times the speed.
#include <cstdint>
#include <memory>

#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "cutlass/kernel_hardware_info.hpp"
#include "cutlass/util/packed_stride.hpp"

namespace {

using namespace cute;

// CUTLASS's M are the rows of a in the first two, so that large products run as its examples do; in the others they are the rows of b, the
// output channels, as wgmma's M is 64 at least and its N 8.
#if ULP_VARIANT == 0
constexpr const char* kName = "128x256x128, 2 consumers, clusters of 2";
constexpr bool kChannelsFirst = false;
using Tile = Shape<_128, _256, _128>;
using Cluster = Shape<_2, _1, _1>;
using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecializedCooperative;
using Scheduler = cutlass::gemm::PersistentScheduler;
#elif ULP_VARIANT == 1
constexpr const char* kName = "128x128x128, ping-pong, clusters of 2";
constexpr bool kChannelsFirst = false;
using Tile = Shape<_128, _128, _128>;
using Cluster = Shape<_2, _1, _1>;
using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecialized;
using Scheduler = cutlass::gemm::PersistentScheduler;
#elif ULP_VARIANT == 2
constexpr const char* kName = "channels 128 x rows 16 x 256, stream-K";
constexpr bool kChannelsFirst = true;
using Tile = Shape<_128, _16, _256>;
using Cluster = Shape<_1, _1, _1>;
using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using EpilogueSchedule = cutlass::epilogue::NoSmemWarpSpecialized;
using Scheduler = cutlass::gemm::StreamKScheduler;
#elif ULP_VARIANT == 3
constexpr const char* kName = "channels 128 x rows 64 x 128, stream-K";
constexpr bool kChannelsFirst = true;
using Tile = Shape<_128, _64, _128>;
using Cluster = Shape<_1, _1, _1>;
using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using EpilogueSchedule = cutlass::epilogue::NoSmemWarpSpecialized;
using Scheduler = cutlass::gemm::StreamKScheduler;
#else
#error "ULP_VARIANT must be 0, 1, 2 or 3"
#endif

using OutputLayout = std::conditional_t<kChannelsFirst, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;
constexpr int kAlignment = 16;
constexpr int kOutputAlignment = 4;

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster, cutlass::epilogue::collective::EpilogueTileAuto, int32_t, int32_t,
    void, OutputLayout, kOutputAlignment, int32_t, OutputLayout, kOutputAlignment, EpilogueSchedule>::CollectiveOp;
using Stages = cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>;
using Loop =
    typename cutlass::gemm::collective::CollectiveBuilder<cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, int8_t,
                                                          cutlass::layout::RowMajor, kAlignment, int8_t, cutlass::layout::ColumnMajor,
                                                          kAlignment, int32_t, Tile, Cluster, Stages, Mainloop>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Loop, Epilogue, Scheduler>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

Gemm::Arguments arguments(int m, int n, int k, const int8_t* a, const int8_t* b, int32_t* out) {
  const int rows = kChannelsFirst ? n : m;
  const int columns = kChannelsFirst ? m : n;
  Gemm::Arguments args;
  args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  args.problem_shape = make_shape(rows, columns, k, 1);
  args.mainloop.ptr_A = kChannelsFirst ? b : a;
  args.mainloop.dA = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, make_shape(rows, k, 1));
  args.mainloop.ptr_B = kChannelsFirst ? a : b;
  args.mainloop.dB = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, make_shape(columns, k, 1));
  args.epilogue.thread.alpha = 1;
  args.epilogue.thread.beta = 0;
  args.epilogue.ptr_D = out;
  args.epilogue.dD = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, make_shape(rows, columns, 1));
  args.hw_info.device_id = 0;
  args.hw_info.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(0);
  return args;
}

}  // namespace

extern "C" {

const char* ulp_cutlass_name() { return kName; }

// Bytes; negative where the kernel cannot run this.
int64_t ulp_cutlass_workspace(int m, int n, int k) {
  const Gemm::Arguments args = arguments(m, n, k, nullptr, nullptr, nullptr);
  if (Gemm::can_implement(args) != cutlass::Status::kSuccess) return -1;
  return static_cast<int64_t>(Gemm::get_workspace_size(args));
}

// A product with its addresses bound, or null. Freed by ulp_cutlass_free.
void* ulp_cutlass_plan(int m, int n, int k, const int8_t* a, const int8_t* b, int32_t* out, void* workspace) {
  auto gemm = std::make_unique<Gemm>();
  if (gemm->initialize(arguments(m, n, k, a, b, out), workspace) != cutlass::Status::kSuccess) return nullptr;
  return gemm.release();
}

// 0, or CUTLASS's status.
int ulp_cutlass_run(void* plan, void* stream) { return static_cast<int>(static_cast<Gemm*>(plan)->run(static_cast<cudaStream_t>(stream))); }

void ulp_cutlass_free(void* plan) { delete static_cast<Gemm*>(plan); }
}
