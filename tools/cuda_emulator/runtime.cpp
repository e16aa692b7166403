// The runtime API: launches on one device, streams that have always finished, and the controls that tests use.
#include "runtime.h"

#include <cstdio>
#include <cstdlib>

#include "emulator.h"

namespace ulp::emulator {

void forget_traffic();

namespace {

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

}  // namespace

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

cudaError_t check_device(int ordinal) {
  if (state().device.arch == 0) return remember(cudaErrorNoDevice);
  return ordinal == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice);
}

cudaError_t synchronize() {
  if (state().device.arch == 0) return remember(cudaErrorNoDevice);
  return state().error;
}

void set_fault(cudaError_t error, const std::string& message) {
  state().error = error;
  state().message = message;
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
  if (s.error != cudaSuccess) return s.error;  // like a device that has faulted
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
  return cudaSuccess;  // a fault of the kernel is returned by a later call
}

}  // namespace ulp::emulator

using ulp::emulator::state;
using ulp::emulator::synchronize;

cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  const std::lock_guard lock(state().mutex);
  return synchronize();
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = state().error;
  state().error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return state().error; }

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
