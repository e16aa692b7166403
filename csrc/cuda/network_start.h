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

// Of a convolution whose windows have so many channels per tap.
inline ConvWindows windows_of(const Window2D& w, const NetTensor& t, int64_t channels) {
  ConvWindows v;
  v.height = t.height;
  v.width = t.width;
  v.pixel = t.pixel();
  v.image = t.bytes();
  v.stride_y = w.stride[0];
  v.stride_x = w.stride[1];
  v.pad_top = w.padding[0];
  v.pad_left = w.padding[1];
  v.dilation_y = w.dilation[0];
  v.dilation_x = w.dilation[1];
  v.out_pixels = Divisor(int64_t{w.out[0]} * w.out[1]);
  v.out_width = Divisor(w.out[1]);
  v.channels = Divisor(channels);
  v.kernel_x = Divisor(w.kernel[1]);
  return v;
}

}  // namespace ulp::cuda
