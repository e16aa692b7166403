// The host's side: devices, memory, launches that the runtime refuses.
#include <cuda.h>

#include <cstring>

#include "test.h"

namespace ulp::emulator::test {
namespace {

void nothing_kernel() {}

ULP_TEST(devices_are_what_was_configured) {
  for (const int arch : {75, 80, 86, 89, 90, 100, 120}) {
    require(ulp_emulator_configure(arch, 46, uint64_t{1} << 31) == 1, "configure");
    cudaDeviceProp properties;
    int value = 0;
    require(cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major * 10 + properties.minor == arch, "arch");
    require(properties.multiProcessorCount == 46 && properties.totalGlobalMem == uint64_t{1} << 31, "size");
    require(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess &&
                static_cast<size_t>(value) == properties.sharedMemPerBlockOptin && value <= 227 << 10,
            "shared memory");
    require(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 1) == cudaErrorInvalidDevice, "second device");
    require(cudaSetDevice(1) == cudaErrorInvalidDevice && cudaGetLastError() == cudaErrorInvalidDevice, "second device");
  }
  require(ulp_emulator_configure(70, 46, 1 << 20) == 0 && ulp_emulator_configure(90, 0, 1 << 20) == 0, "refused");
}

ULP_TEST(no_device_is_an_error) {
  require(ulp_emulator_configure(0, 1, 1) == 1, "configure");
  int value = -1;
  void* pointer = nullptr;
  require(cudaGetDeviceCount(&value) == cudaErrorNoDevice && value == 0, "count");
  require(cudaMalloc(&pointer, 4) == cudaErrorNoDevice && run(Shape{}, nothing_kernel) == cudaErrorNoDevice, "use");
  require(strcmp(cudaGetErrorString(cudaGetLastError()), "no CUDA-capable device is detected") == 0, "text");
}

ULP_TEST(memory_is_tracked) {
  require(ulp_emulator_configure(90, 1, 1 << 20) == 1, "configure");
  void* large = nullptr;
  void* more = &large;
  size_t available = 0;
  size_t total = 0;
  require(cudaMalloc(&large, 1 << 19) == cudaSuccess && reinterpret_cast<uintptr_t>(large) % 256 == 0, "allocate");
  require(cudaMalloc(&more, (1 << 19) + 1) == cudaErrorMemoryAllocation && more == nullptr, "out of memory");
  require(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess, "once");
  require(cudaMemGetInfo(&available, &total) == cudaSuccess && available == 1 << 19 && total == 1 << 20, "info");
  unsigned char bytes[16] = {1, 2, 3};
  unsigned char back[16] = {};
  unsigned char* const end = static_cast<unsigned char*>(large) + (1 << 19);
  require(cudaMemcpy(end - 16, bytes, 16, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
  require(cudaMemcpy(back, end - 16, 16, cudaMemcpyDeviceToHost) == cudaSuccess && memcmp(bytes, back, 16) == 0, "copy back");
  require(cudaMemcpy(end - 15, bytes, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue && cudaGetLastError() != cudaSuccess,
          "beyond the end");
  require(cudaMemcpy(back, bytes, 16, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue && cudaGetLastError() != cudaSuccess,
          "from the host");
  require(cudaMemsetAsync(end - 2, 7, 2) == cudaSuccess && end[-1] == 7, "set");
  cudaPointerAttributes attributes;
  require(
      cudaPointerGetAttributes(&attributes, end - 1) == cudaSuccess && attributes.type == cudaMemoryTypeDevice && attributes.device == 0,
      "device");
  require(cudaPointerGetAttributes(&attributes, end) == cudaSuccess && attributes.type == cudaMemoryTypeUnregistered, "host");
  require(cudaFree(end) == cudaErrorInvalidValue && cudaGetLastError() != cudaSuccess, "free of another pointer");
  require(cudaFree(large) == cudaSuccess && cudaFree(nullptr) == cudaSuccess, "free");
  require(cudaFree(large) == cudaErrorInvalidValue && cudaGetLastError() != cudaSuccess, "free twice");
}

ULP_TEST(launches_that_are_refused) {
  const auto refused = [](Shape shape, cudaError_t expected) {
    require(run(shape, nothing_kernel) == expected && cudaGetLastError() == expected, cudaGetErrorName(expected));
  };
  require(run(Shape{2, 1024, 227 << 10, 2}, nothing_kernel) == cudaSuccess, "the largest");
  refused({0, 32}, cudaErrorInvalidConfiguration);
  refused({1, 1025}, cudaErrorInvalidConfiguration);
  refused({1, 32, (227 << 10) + 1}, cudaErrorInvalidValue);
  refused({3, 32, 0, 2}, cudaErrorInvalidClusterSize);
  refused({9, 32, 0, 9}, cudaErrorInvalidClusterSize);
  configure(89);
  refused({2, 32, 0, 2}, cudaErrorNotSupported);
  refused({1, 32, (99 << 10) + 1}, cudaErrorInvalidValue);
}

void large_kernel() {}

ULP_TEST(large_shared_memory_is_asked_for_first) {
  cudaLaunchConfig_t config{};
  config.dynamicSmemBytes = (48 << 10) + 1;
  require(cudaLaunchKernelEx(&config, large_kernel) == cudaErrorInvalidValue && cudaGetLastError() == cudaErrorInvalidValue, "before");
  require(cudaFuncSetAttribute(large_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000) == cudaSuccess, "attribute");
  require(cudaLaunchKernelEx(&config, large_kernel) == cudaSuccess, "after");
}

ULP_TEST(entry_points_are_few) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  require(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found) == cudaSuccess && function != nullptr,
          "there");
  require(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 11080, cudaEnableDefault, &found) == cudaSuccess &&
              found == cudaDriverEntryPointVersionNotSufficent && function == nullptr,
          "before its time");
  require(cudaGetDriverEntryPoint("cuNoSuch", &function, cudaEnableDefault, &found) == cudaSuccess &&
              found == cudaDriverEntryPointSymbolNotFound,
          "unknown");
}

void fault_kernel(bool now) {
  if (now) __trap();
}

ULP_TEST(faults_come_out_once_and_stop_what_follows) {
  cudaLaunchConfig_t config{};
  require(cudaLaunchKernelEx(&config, fault_kernel, true) == cudaSuccess, "the launch itself works");
  int host = 0;
  const Buffer<int> buffer(1);
  require(cudaMemcpy(&host, buffer.data(), 4, cudaMemcpyDeviceToHost) == cudaErrorIllegalInstruction, "a copy tells");
  require(cudaLaunchKernelEx(&config, fault_kernel, false) == cudaErrorIllegalInstruction, "a launch tells");
  require(cudaStreamSynchronize(nullptr) == cudaErrorIllegalInstruction && cudaGetLastError() == cudaErrorIllegalInstruction, "told");
  require(cudaStreamSynchronize(nullptr) == cudaSuccess && cudaLaunchKernelEx(&config, fault_kernel, false) == cudaSuccess, "over");
}

}  // namespace
}  // namespace ulp::emulator::test
