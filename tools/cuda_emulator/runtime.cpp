// The runtime API: one device, whose memory is the host's, and streams that have always finished.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "machine.h"

namespace ulp::emulator {

void forget_traffic();

namespace {

// Bytes before and after an allocation that nobody may write. AddressSanitizer keeps its own.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuard = 0;
#else
constexpr size_t kGuard = 256;
#endif
constexpr uint8_t kNoise = 0xA5;  // what memory holds at first: no zeros, which would look like results

struct Kernel {
  int max_shared = 48 << 10;
  bool big_clusters = false;
};

struct State {
  Device device;
  std::map<uintptr_t, size_t> allocations;
  std::map<const void*, Kernel> kernels;
  uint64_t used = 0;
  uint64_t launches = 0;
  cudaError_t error = cudaSuccess;
  std::string message;
  std::recursive_mutex mutex;

  State();
};

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* const value = getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : strtoull(value, nullptr, 0);
}

bool is_arch(int arch) {
  for (const int known : {75, 80, 86, 89, 90, 100, 120}) {
    if (arch == known) return true;
  }
  return false;
}

State::State() {
  device.arch = static_cast<int>(from_environment("ULP_EMULATOR_ARCH", 90));
  device.sms = static_cast<int>(from_environment("ULP_EMULATOR_SMS", 132));
  device.memory = from_environment("ULP_EMULATOR_MEMORY", device.memory);
  device.seed = from_environment("ULP_EMULATOR_SEED", 1);
  device.races = from_environment("ULP_EMULATOR_RACES", 1) != 0;
  if (device.arch != 0 && !is_arch(device.arch)) {
    fprintf(stderr, "ULP_EMULATOR_ARCH=%d: 75, 80, 86, 89, 90, 100, 120, or 0 for no device\n", device.arch);
    abort();
  }
}

State& state() {
  static State the_state;
  return the_state;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) state().error = error;
  return error;
}

// The allocation that holds the byte, or nullptr.
const std::pair<const uintptr_t, size_t>* allocation_of(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  auto after = state().allocations.upper_bound(address);
  if (after == state().allocations.begin()) return nullptr;
  --after;
  return address - after->first < after->second ? &*after : nullptr;
}

bool on_device(const void* pointer, size_t bytes) {
  const auto* const allocation = allocation_of(pointer);
  return allocation != nullptr && reinterpret_cast<uintptr_t>(pointer) - allocation->first + bytes <= allocation->second;
}

cudaError_t check_device(int ordinal) {
  if (state().device.arch == 0) return remember(cudaErrorNoDevice);
  return ordinal == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice);
}

// Plain stores of a kernel that went just past an allocation.
void check_guards() {
  for (const auto& [address, bytes] : state().allocations) {
    uint8_t* const begin = reinterpret_cast<uint8_t*>(address);
    for (size_t i = 0; i < 2 * kGuard; ++i) {
      uint8_t& guard = i < kGuard ? begin[bytes + i] : begin[-1 - static_cast<std::ptrdiff_t>(i - kGuard)];
      if (guard == kNoise) continue;
      guard = kNoise;
      set_fault(cudaErrorIllegalAddress, "the kernel has stored to byte " + std::to_string(&guard - begin) + " of an allocation of " +
                                             std::to_string(bytes) + " bytes");
    }
  }
}

// A fault of an earlier kernel comes out of the next call that synchronises.
cudaError_t synchronise() {
  if (state().device.arch == 0) return remember(cudaErrorNoDevice);
  return state().error;
}

}  // namespace

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

void set_fault(cudaError_t error, const std::string& message) {
  state().error = error;
  state().message = message;
}

void check_global(const char* name, const void* pointer, size_t bytes) {
  if (on_device(pointer, bytes)) return;
  const auto* const allocation = allocation_of(pointer);
  if (allocation == nullptr) fail(cudaErrorIllegalAddress, "%s: global address %p is in no allocation", name, pointer);
  fail(cudaErrorIllegalAddress, "%s: %zu bytes at byte %zu of an allocation of %zu", name, bytes,
       static_cast<size_t>(reinterpret_cast<uintptr_t>(pointer) - allocation->first), allocation->second);
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<uint32_t>(value) > s.device.max_shared()) return remember(cudaErrorInvalidValue);
    s.kernels[kernel].max_shared = value;
  } else if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    s.kernels[kernel].big_clusters = value != 0;
  }
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*run)(void*), void* arguments) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.device.arch == 0) return remember(cudaErrorNoDevice);
  if (s.error != cudaSuccess) return s.error;  // as a device that has faulted
  dim3 cluster;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
    const auto& size = config.attrs[i].val.clusterDim;
    cluster = dim3(size.x, size.y, size.z);
  }
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535 || threads == 0 ||
      threads > 1024 || block.z > 64) {
    return remember(cudaErrorInvalidConfiguration);
  }
  const Kernel attributes = s.kernels[kernel];
  if (config.dynamicSmemBytes > static_cast<size_t>(attributes.max_shared)) return remember(cudaErrorInvalidValue);
  const uint64_t blocks = uint64_t{cluster.x} * cluster.y * cluster.z;
  if (blocks == 0 || blocks > (attributes.big_clusters ? 16 : 8) || grid.x % cluster.x != 0 || grid.y % cluster.y != 0 ||
      grid.z % cluster.z != 0) {
    return remember(cudaErrorInvalidClusterSize);
  }
  if (blocks > 1 && s.device.arch < 90) return remember(cudaErrorNotSupported);
  if (Machine(config, cluster, run, arguments, s.device.seed * 1000003 + s.launches++).run_grid()) check_guards();
  return cudaSuccess;  // what the kernel did comes out later
}

}  // namespace ulp::emulator

using ulp::emulator::check_device;
using ulp::emulator::kGuard;
using ulp::emulator::kNoise;
using ulp::emulator::on_device;
using ulp::emulator::remember;
using ulp::emulator::state;
using ulp::emulator::synchronise;

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

cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().device.arch == 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  if (const cudaError_t error = check_device(0)) return error;
  *total = state().device.memory;
  *available = *total - state().used;
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------------------------------ memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  ulp::emulator::State& s = state();
  const std::lock_guard lock(s.mutex);
  if (const cudaError_t error = check_device(0)) return error;
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > s.device.memory - s.used) return remember(cudaErrorMemoryAllocation);
  void* block = nullptr;
  if (posix_memalign(&block, 256, bytes + 2 * kGuard) != 0) return remember(cudaErrorMemoryAllocation);
  memset(block, kNoise, bytes + 2 * kGuard);
  *pointer = static_cast<char*>(block) + kGuard;
  s.allocations[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  s.used += bytes;
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }

cudaError_t cudaFree(void* pointer) {
  ulp::emulator::State& s = state();
  const std::lock_guard lock(s.mutex);
  if (pointer == nullptr) return cudaSuccess;
  const auto found = s.allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == s.allocations.end()) return remember(cudaErrorInvalidValue);
  s.used -= found->second;
  s.allocations.erase(found);
  free(static_cast<char*>(pointer) - kGuard);
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

namespace {

// Whether the two ends are where the kind says.
cudaError_t check_copy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (bytes == 0 || kind == cudaMemcpyDefault) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return on_device(target, bytes) == to_device && on_device(source, bytes) == from_device ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpy2DAsync(target, bytes, source, bytes, bytes, 1, kind);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(target, source, bytes, kind);
}

cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t) {
  const std::lock_guard lock(state().mutex);
  if (const cudaError_t error = synchronise()) return error;
  if (width > target_pitch || width > source_pitch) return remember(cudaErrorInvalidValue);
  for (size_t row = 0; row < height; ++row) {
    char* const to = static_cast<char*>(target) + row * target_pitch;
    const char* const from = static_cast<const char*>(source) + row * source_pitch;
    if (const cudaError_t error = check_copy(to, from, width, kind)) return remember(error);
    if (width != 0) memmove(to, from, width);
  }
  return cudaSuccess;
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  const std::lock_guard lock(state().mutex);
  if (const cudaError_t error = synchronise()) return error;
  if (bytes != 0 && !on_device(pointer, bytes)) return remember(cudaErrorInvalidValue);
  if (bytes != 0) memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t) { return cudaMemset(pointer, value, bytes); }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const std::lock_guard lock(state().mutex);
  if (const cudaError_t error = check_device(0)) return error;
  const bool device = on_device(pointer, 1);
  void* const address = const_cast<void*>(pointer);
  *attributes = device ? cudaPointerAttributes{cudaMemoryTypeDevice, 0, address, nullptr}
                       : cudaPointerAttributes{cudaMemoryTypeUnregistered, -1, nullptr, address};
  return cudaSuccess;
}

// --------------------------------------------------------------------------------------------------------------- streams and errors

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  const std::lock_guard lock(state().mutex);
  return synchronise();
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = state().error;
  state().error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return state().error; }

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};

const ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "cluster configuration is not supported"},
};

const ErrorText& text_of(cudaError_t error) {
  static const ErrorText unknown{cudaSuccess, "unrecognized error code", "unrecognized error code"};
  for (const ErrorText& row : kErrors) {
    if (row.error == error) return row;
  }
  return unknown;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

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
  const bool enough = version >= 12000;  // where it came in
  if (known && enough) *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  const auto found = !known    ? cudaDriverEntryPointSymbolNotFound
                     : !enough ? cudaDriverEntryPointVersionNotSufficent
                               : cudaDriverEntryPointSuccess;
  if (result != nullptr) *result = found;
  return *function != nullptr || result != nullptr ? cudaSuccess : remember(cudaErrorSymbolNotFound);
}

// ------------------------------------------------------------------------------------------------------------------------- tests

const char* ulp_emulator_last_message() { return state().message.c_str(); }

int ulp_emulator_configure(int arch, int sms, uint64_t memory) {
  if ((arch != 0 && !ulp::emulator::is_arch(arch)) || sms < 1 || memory == 0) return 0;
  ulp::emulator::Device& device = state().device;
  device.arch = arch;
  device.sms = sms;
  device.memory = memory;
  ulp_emulator_reset();
  return 1;
}

void ulp_emulator_seed(uint64_t seed) {
  state().device.seed = seed;
  state().launches = 0;
}

void ulp_emulator_detect_races(int on) { state().device.races = on != 0; }

void ulp_emulator_reset() {
  state().error = cudaSuccess;
  state().message.clear();
  ulp::emulator::forget_traffic();
}
