// Codes that are made in the call: the kernels of network_codes.cuh, and their launches.
#include "cuda/network_linear.h"

namespace ulp::cuda {
namespace {

__global__ void __launch_bounds__(kWorkThreads) each_row_to_codes(const __grid_constant__ RowCodesWork w) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kWorkThreads / kRowLanes) + threadIdx.x / kRowLanes;
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int row = static_cast<int>(at < w.rows ? at : w.rows - 1);
  const int image = w.time.quotient(row);
  const bool counts = w.time.remainder(row, image) < w.lengths[image];
  const float* x = w.x + static_cast<int64_t>(row) * w.count;
  float least = 0;
  float largest = 0;
  if (w.slots != nullptr) {
    const int* slot = w.slots + 2 * w.rows_per_slot.quotient(row);
    least = __int_as_float(slot[0]);
    largest = __int_as_float(slot[1]);
  } else {
    for (int c = lane; c < w.count; c += kRowLanes) {
      const float v = w.value(x, c);
      least = -v > least ? -v : least;
      largest = v > largest ? v : largest;
    }
    least = largest_of_lanes(least);
    largest = largest_of_lanes(largest);
  }
  const RowQuantizer q = quantizer_of_range(-least, largest, w.bits);
  if (at >= w.rows) return;
  unsigned char* codes = w.codes + static_cast<int64_t>(row) * w.stride;
  bool finite = is_finite(q.scale) && w.limit.allows(q.scale);
  for (int c = lane; c < w.stride; c += kRowLanes) {
    if (c >= w.count || !counts) {
      codes[c] = 0;
      continue;
    }
    finite = finite && is_finite(x[c]);
    const float steps = __fdiv_rn(w.value(x, c), q.scale);
    codes[c] = static_cast<unsigned char>(w.shifted ? code_of_steps(__fadd_rn(steps, __int2float_rn(q.zero)), 0, (1 << w.bits) - 1)
                                                    : code_of_steps(steps, q.zero, (1 << w.bits) - 1));
  }
  if (counts && !finite) w.status[0] = 1;
  if (lane != 0) return;
  w.scales[row] = q.scale;
  w.zeros[row] = q.zero;
}

}  // namespace

void start_row_codes(const RowCodesWork& work, Stream stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(work.rows, kWorkThreads / kRowLanes)));
  config.blockDim = dim3(kWorkThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, each_row_to_codes, work), "quantizing rows");
}

void start_ranges(const RangeWork& work, int64_t slots, Stream stream) {
  check(cudaMemsetAsync(work.slots, 0, static_cast<size_t>(slots) * 2 * sizeof(int), static_cast<cudaStream_t>(stream)), "clearing ranges");
  start_work(work, stream);
}

}  // namespace ulp::cuda
