// What the steps of a network share: launches, and tensors as kernels take them.
#pragma once

#include <cuda_runtime.h>

#include "cuda/check.h"
#include "cuda/network.h"
#include "cuda/network_work.cuh"

namespace ulp::cuda {

template <typename Work>
void start_work(const Work& work, Stream stream) {
  if (work.count == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(work.count, kWorkThreads)));
  config.blockDim = dim3(kWorkThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, each_element<Work>, work), "starting a step");
}

inline Elements elements_of(const Run& run, Place p) {
  const NetTensor& t = run.tensor(p.tensor);
  Elements e;
  unsigned char* data = run.data(p);
  if (t.is_codes) {
    e.codes = data;
  } else {
    e.floats = reinterpret_cast<float*>(data);
  }
  e.pixel = t.pixel();
  e.scale = t.scale;
  e.zero = t.zero;
  e.max_code = t.max_code();
  return e;
}

}  // namespace ulp::cuda
