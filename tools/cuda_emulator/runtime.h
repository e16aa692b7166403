// What the files of the emulated runtime API share: its state, and the checks of a call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "machine.h"

namespace ulp::emulator {

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

State& state();

// The error of a call that did not start anything; the next cudaGetLastError returns it, too.
cudaError_t remember(cudaError_t error);
// The error of a call for device `ordinal`.
cudaError_t check_device(int ordinal);
// The error of a call that waits for the device: the fault of an earlier kernel, if any.
cudaError_t synchronize();

// Whether one allocation contains all of these bytes.
bool on_device(const void* pointer, size_t bytes);
// Reports plain stores of a kernel that went just past an allocation.
void check_guards();

}  // namespace ulp::emulator
