// What devices there are, and what this module was built for.
#include <cuda_runtime.h>

#include "cuda/api.h"
#include "cuda/check.h"

#ifndef ULP_CUDA_ARCHITECTURES_TEXT
#define ULP_CUDA_ARCHITECTURES_TEXT "unknown"
#endif

namespace ulp::cuda {

std::vector<Device> devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for CUDA devices");
  if (count == 0) throw DeviceError("looking for CUDA devices: the driver knows of none");
  std::vector<Device> list;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "reading a device's properties");
    list.push_back({properties.name, machine_of(i), static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return list;
}

Machine machine_of(int device) {
  int major = 0;
  int minor = 0;
  int sms = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "reading a device's properties");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "reading a device's properties");
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device), "reading a device's properties");
  return {10 * major + minor, sms};
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  return device;
}

std::vector<std::pair<std::string, std::string>> build_facts() {
  return {{"cuda", std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10)},
          {"architectures", ULP_CUDA_ARCHITECTURES_TEXT}};
}

}  // namespace ulp::cuda
