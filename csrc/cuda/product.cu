// The product: arguments and launches of the kernels of a plan.
#include <cuda.h>
#include <cuda_runtime.h>

#include "cuda/api.h"
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/pack_planes.cuh"
#include "cuda/pick.h"
#include "cuda/reduce.cuh"

namespace ulp::cuda {
namespace {

// cuTensorMapEncodeTiled is looked up through the runtime, so that the module does not link to the driver's library.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
          "looking for cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess) throw DeviceError("this driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return function;
}

// Boxes of `rows` rows x 128 bytes of a or of its planes, swizzled as wgmma reads them; zeros outside.
CUtensorMap activation_map(const Arguments& p, bool planes, int rows) {
  CUtensorMap map;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(planes ? p.planes.stride : p.k),
                              static_cast<cuuint64_t>(p.m) * static_cast<cuuint64_t>(planes ? p.planes.a_bits : 1)};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(p.a_stride)};
  const cuuint32_t box[2] = {kBlock, static_cast<cuuint32_t>(rows)};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result = encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<unsigned char*>(p.a), size, stride, box, step,
                                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) throw DeviceError("cuTensorMapEncodeTiled failed with code " + std::to_string(static_cast<int>(result)));
  return map;
}

// More than 48 KiB of shared memory must be requested. Once per device would do; repeated, it costs a microsecond at most.
template <typename Kernel>
void allow_shared(Kernel kernel, int bytes) {
  constexpr int kAlways = 48 * 1024;
  if (bytes > kAlways) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "asking for shared memory");
}

bool multiple(const void* pointer, int64_t unit) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer)) % unit == 0; }

Situation situation_of(const DeviceProblem& q) {
  Situation s;
  s.shape = {q.a.m, q.b->n, q.b->k, q.a.encoding, q.b->encoding};
  s.aligned = is_aligned(q.a);
  s.b_zero_point = q.b_zero != 0 || q.b_zeros != nullptr;
  return s;
}

// a - a' of arguments.h: what flipping the top bit subtracts from unsigned activations to make them signed, and the offset of bipolar
// planes.
int activation_offset(const Plan& plan, const Encoding& a) {
  if (plan.row->planes()) return a.bipolar() ? 1 : 0;
  if (a.is_signed) return 0;
  if (plan.row->family == Family::mma_s8) return a.bits == 8 ? 128 : 0;
  if (plan.row->family == Family::mma_s4) return a.bits == 4 ? 8 : 0;
  return 0;  // wgmma multiplies unsigned bytes, too
}

Arguments arguments_of(const DeviceProblem& q, const Plan& plan, void* workspace) {
  const Encoding& b = q.b->encoding;
  const bool nibbles = plan.row->family == Family::mma_s4;
  const bool planes = plan.row->planes();
  const int offset = activation_offset(plan, q.a.encoding);
  Arguments p;
  p.a = static_cast<const unsigned char*>(q.a.data);
  p.a_stride = q.a.row_stride;
  p.aligned = is_aligned(q.a);
  p.m = static_cast<int>(q.a.m);
  p.k = static_cast<int>(q.b->k);
  p.n = static_cast<int>(q.b->n);
  p.weights = static_cast<const unsigned char*>(q.b->data.data());
  p.shift = planes ? 0 : (nibbles ? 4 : 8) - (b.bipolar() ? 2 : b.bits);
  p.flip = offset == 0 || planes ? 0 : nibbles ? 0x88888888u : 0x80808080u;
  p.bipolar = !b.bipolar() ? 0 : nibbles ? 0x44444444u : 0x40404040u;
  p.splits = plan.splits;
  p.steps_per_split = plan.steps_per_split;
  p.stages = plan.stages;
  p.multicast = plan.multicast;
  p.token_tiles = static_cast<int>(plan.token_tiles);
  p.channel_tiles = static_cast<int>(plan.channel_tiles);
  const int64_t blocks = Layout{p.k, p.n, b.bits}.blocks();
  if (planes) {
    p.planes = {
        b.bits, q.a.encoding.bits, !b.bipolar(), q.a.encoding.is_signed && !q.a.encoding.bipolar(), 1, static_cast<int>(blocks) * 16};
    if (b.bipolar()) p.planes.factor *= -2;
    if (q.a.encoding.bipolar()) p.planes.factor *= -2;
    p.a = static_cast<unsigned char*>(workspace) + plan.planes_at;
    p.a_stride = p.planes.stride;
    p.aligned = true;
  }
  p.partials = reinterpret_cast<int*>(static_cast<unsigned char*>(workspace) + plan.partials_at);

  Finish& f = p.finish;
  const DeviceEpilogue& e = q.epilogue;
  f.kind = e.kind;
  f.out = q.out;
  f.out_stride = q.out_stride;
  f.vectors = multiple(q.out, f.kind == OutputKind::quantized ? 4 : 16) && q.out_stride % 4 == 0;
  f.n = p.n;
  f.m = p.m;
  f.a_term = static_cast<int>(static_cast<uint32_t>(offset) - static_cast<uint32_t>(q.a.zero));
  f.weight_sums = static_cast<const int*>(q.b->sums.data());
  if (b.bipolar())
    f.padding = planes ? static_cast<int>(-(static_cast<int64_t>(f.a_term) * p.k)) : static_cast<int>(blocks * kBlock - p.k) * offset;
  const int w_offset = !b.is_signed ? 1 << (b.bits - 1) : planes && b.bipolar() ? 1 : 0;
  f.w_term = q.b_zeros != nullptr ? w_offset : static_cast<int>(static_cast<uint32_t>(w_offset) - static_cast<uint32_t>(q.b_zero));
  f.w_zeros = q.b_zeros;
  f.row_sums = plan.row_sums && (f.w_term != 0 || f.w_zeros != nullptr) ? static_cast<const int*>(workspace) : nullptr;
  f.row_shift = static_cast<int>(static_cast<uint32_t>(p.k) * static_cast<uint32_t>(q.a.zero));
  f.scale = e.scale;
  f.scales = e.scales;
  f.bias = e.bias;
  f.float_bias = e.float_bias;
  f.relu = e.relu;
  f.low = (e.relu && e.zero > e.qmin ? e.zero : e.qmin) - e.zero;
  f.high = e.qmax - e.zero;
  f.zero = e.zero;
  return p;
}

// The planes of a, and X_a if the product needs it.
void start_planes(const DeviceProblem& q, const Arguments& p, cudaStream_t stream) {
  const PlaneSource source{static_cast<const unsigned char*>(q.a.data), q.a.row_stride, p.m, p.k, is_aligned(q.a), q.a.encoding.bipolar()};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.m));
  config.blockDim = dim3(kPlanesThreads);
  config.dynamicSmemBytes = kPlanesSharedBytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, pack_planes, source, p.planes, const_cast<unsigned char*>(p.a), const_cast<int*>(p.finish.row_sums)),
        "starting pack_planes");
}

void start_mma(const Plan& plan, const Arguments& p, int bits, cudaStream_t stream) {
  const MmaKernel kernel = plan.row->mma(bits);
  allow_shared(kernel, plan.shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.grid), static_cast<unsigned>(plan.splits));
  config.blockDim = dim3(static_cast<unsigned>(plan.row->threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, p), "starting a product");
  if (plan.splits == 1) return;
  const int64_t pairs = ceil_div(p.n, 2) * p.m;
  cudaLaunchConfig_t adding{};
  adding.gridDim = dim3(static_cast<unsigned>(ceil_div(pairs, kReduceThreads)));
  adding.blockDim = dim3(kReduceThreads);
  adding.stream = stream;
  check(cudaLaunchKernelEx(&adding, add_slices, p), "starting add_slices");
}

void start_sm90(const Plan& plan, const Arguments& p, const Encoding& a, int bits, cudaStream_t stream) {
  const Sm90Kernel kernel = plan.row->wgmma(!a.is_signed && a.bits == 8, bits);
  allow_shared(kernel, plan.shared_bytes);
  const CUtensorMap map = activation_map(p, plan.row->planes(), plan.row->tokens / plan.multicast);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(plan.multicast * plan.splits);
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.grid));
  config.blockDim = dim3(static_cast<unsigned>(plan.row->threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, map, p), "starting a product");
}

}  // namespace

void gemm(const DeviceProblem& q, const char* kernel, void* workspace, size_t workspace_bytes, Stream stream) {
  const int device = q.b->data.size() > 0 ? q.b->data.device() : q.b->sums.device();
  const CurrentDevice current(device);
  const Plan chosen = plan(situation_of(q), machine_of(device), kernel);
  if (workspace_bytes < static_cast<size_t>(chosen.workspace_bytes)) {
    throw std::invalid_argument("the workspace has " + std::to_string(workspace_bytes) + " bytes: this call needs " +
                                std::to_string(chosen.workspace_bytes));
  }
  if (q.a.m == 0 || q.b->n == 0) return;
  const Arguments p = arguments_of(q, chosen, workspace);
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (chosen.row->planes()) {
    start_planes(q, p, queue);
  } else if (p.finish.row_sums != nullptr) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(ceil_div(p.m, kReduceThreads / 32)));
    config.blockDim = dim3(kReduceThreads);
    config.stream = queue;
    check(cudaLaunchKernelEx(&config, sum_rows, p.a, p.a_stride, p.m, p.k, p.aligned, q.a.encoding.is_signed, static_cast<int*>(workspace)),
          "starting sum_rows");
  }
  if (chosen.row->hopper()) {
    start_sm90(chosen, p, q.a.encoding, q.b->encoding.bits, queue);
  } else {
    start_mma(chosen, p, q.b->encoding.bits, queue);
  }
}

}  // namespace ulp::cuda
