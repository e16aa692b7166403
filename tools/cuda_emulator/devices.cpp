// The runtime API: what the device is, and the driver's entry points.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "runtime.h"

namespace ulp::emulator {

Device& device() { return state().device; }

uint32_t Device::max_shared() const {
  switch (arch) {
    case 75:
      return 64u << 10;
    case 80:
      return 163u << 10;
    case 90:
    case 100:
      return 227u << 10;
    default:
      return 99u << 10;
  }
}

}  // namespace ulp::emulator

using ulp::emulator::check_device;
using ulp::emulator::remember;
using ulp::emulator::state;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = state().device.arch == 0 ? 0 : 1;
  return *count == 0 ? remember(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return check_device(0);
}

cudaError_t cudaSetDevice(int device) { return check_device(device); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int ordinal) {
  if (const cudaError_t error = check_device(ordinal)) return error;
  const ulp::emulator::Device& device = state().device;
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "Emulated sm_%d", device.arch);
  properties->totalGlobalMem = device.memory;
  properties->sharedMemPerBlock = 48 << 10;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->major = device.arch / 10;
  properties->minor = device.arch % 10;
  properties->multiProcessorCount = device.sms;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerMultiProcessor = device.arch == 75 ? 1024 : device.arch % 10 != 0 || device.arch == 120 ? 1536 : 2048;
  properties->sharedMemPerMultiprocessor = device.max_shared() + (device.arch == 75 ? 0 : 1 << 10);
  properties->sharedMemPerBlockOptin = device.max_shared();
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = properties.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    case cudaDevAttrClusterLaunch:
      *value = properties.major >= 9;
      break;
    default:
      return remember(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().device.arch == 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* result) {
  return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION, flags, result);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  if (const cudaError_t error = check_device(0)) return error;
  if (flags != cudaEnableDefault) return remember(cudaErrorInvalidValue);
  const bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  const bool enough = version >= 12000;  // the version that introduced it
  if (known && enough) *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  const auto found = !known    ? cudaDriverEntryPointSymbolNotFound
                     : !enough ? cudaDriverEntryPointVersionNotSufficent
                               : cudaDriverEntryPointSuccess;
  if (result != nullptr) *result = found;
  return *function != nullptr || result != nullptr ? cudaSuccess : remember(cudaErrorSymbolNotFound);
}
