// Memory of a device: allocation, and copies to and from the host.
#include <cuda_runtime.h>

#include "cuda/api.h"
#include "cuda/check.h"

namespace ulp::cuda {

DeviceMemory::DeviceMemory(int device, size_t size) : size_(size), device_(device) {
  if (size == 0) return;
  const CurrentDevice current(device);
  check(cudaMalloc(&data_, size), ("allocating " + std::to_string(size) + " bytes on the device").c_str());
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess) return;  // at exit the driver may be gone, and the memory with it
  static_cast<void>(cudaSetDevice(device_));
  static_cast<void>(cudaFree(data_));  // waits for the device
  static_cast<void>(cudaSetDevice(before));
}

void upload(void* target, const void* host, size_t size, int device) {
  if (size == 0) return;
  const CurrentDevice current(device);
  check(cudaMemcpy(target, host, size, cudaMemcpyHostToDevice), "copying to the device");
  // From pageable memory cudaMemcpy may return before the last bytes have arrived, and other streams do not wait for the default one.
  check(cudaStreamSynchronize(nullptr), "copying to the device");
}

void download(void* host, const void* source, size_t size, int device, Stream stream) {
  if (size == 0) return;
  const CurrentDevice current(device);
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(host, source, size, cudaMemcpyDeviceToHost, queue), "copying from the device");
  check(cudaStreamSynchronize(queue), "copying from the device");
}

}  // namespace ulp::cuda
