// The runtime API: device memory, which is the host's, with guards around each allocation.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "runtime.h"

namespace ulp::emulator {
namespace {

// Guard bytes before and after each allocation. AddressSanitizer has its own.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuard = 0;
#else
constexpr size_t kGuard = 256;
#endif
constexpr uint8_t kNoise = 0xA5;  // initial contents of memory: not zeros, which could pass for results

// The allocation that holds the byte, or nullptr.
const std::pair<const uintptr_t, size_t>* allocation_of(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  auto after = state().allocations.upper_bound(address);
  if (after == state().allocations.begin()) return nullptr;
  --after;
  return address - after->first < after->second ? &*after : nullptr;
}

}  // namespace

bool on_device(const void* pointer, size_t bytes) {
  const auto* const allocation = allocation_of(pointer);
  return allocation != nullptr && reinterpret_cast<uintptr_t>(pointer) - allocation->first + bytes <= allocation->second;
}

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

void check_global(const char* name, const void* pointer, size_t bytes) {
  if (on_device(pointer, bytes)) return;
  const auto* const allocation = allocation_of(pointer);
  if (allocation == nullptr) fail(cudaErrorIllegalAddress, "%s: global address %p is in no allocation", name, pointer);
  fail(cudaErrorIllegalAddress, "%s: %zu bytes at byte %zu of an allocation of %zu", name, bytes,
       static_cast<size_t>(reinterpret_cast<uintptr_t>(pointer) - allocation->first), allocation->second);
}

}  // namespace ulp::emulator

using ulp::emulator::check_device;
using ulp::emulator::kGuard;
using ulp::emulator::kNoise;
using ulp::emulator::on_device;
using ulp::emulator::remember;
using ulp::emulator::state;
using ulp::emulator::synchronize;

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  if (const cudaError_t error = check_device(0)) return error;
  *total = state().device.memory;
  *available = *total - state().used;
  return cudaSuccess;
}

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

// Whether target and source are where the kind says.
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
  if (const cudaError_t error = synchronize()) return error;
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
  if (const cudaError_t error = synchronize()) return error;
  if (bytes != 0 && !on_device(pointer, bytes)) return remember(cudaErrorInvalidValue);
  if (bytes != 0) memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  const auto fill = [=] { return cudaMemset(pointer, value, bytes); };
  if (!ulp::emulator::captures(stream)) return fill();
  ulp::emulator::capture(stream, fill);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const std::lock_guard lock(state().mutex);
  if (const cudaError_t error = check_device(0)) return error;
  const bool device = on_device(pointer, 1);
  void* const address = const_cast<void*>(pointer);
  *attributes = device ? cudaPointerAttributes{cudaMemoryTypeDevice, 0, address, nullptr}
                       : cudaPointerAttributes{cudaMemoryTypeUnregistered, -1, nullptr, address};
  return cudaSuccess;
}
