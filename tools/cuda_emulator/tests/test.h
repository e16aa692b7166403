// A small framework for the emulator's own tests: functions that throw on failure.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator.h"

namespace ulp::emulator::test {

struct Case {
  const char* name;
  void (*run)();
};
std::vector<Case>& cases();
struct Registration {
  Registration(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
#define ULP_TEST(name)                                                            \
  static void name();                                                             \
  static const ::ulp::emulator::test::Registration register_##name(#name, &name); \
  static void name()

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) { require(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess, "out of memory"); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    require(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess, "upload");
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    require(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess, "download");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

template <typename T>
std::vector<T> random_values(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(random());
  return values;
}

struct Shape {
  unsigned blocks = 1;
  unsigned threads = 32;
  size_t shared = 4096;
  unsigned cluster = 1;
};

// Launches the kernel and returns its error.
template <typename... Parameters, typename... Arguments>
cudaError_t run(Shape shape, void (*kernel)(Parameters...), Arguments... arguments) {
  if (shape.shared > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared;
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

// The kernel must run without a fault in every order.
template <typename... Parameters, typename... Arguments>
void expect_success(Shape shape, void (*kernel)(Parameters...), Arguments... arguments) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    ulp_emulator_seed(seed);
    const cudaError_t error = run(shape, kernel, arguments...);
    require(error == cudaSuccess, std::string(cudaGetErrorName(error)) + ": " + ulp_emulator_last_message());
  }
}

// Every order of the kernel must end in this fault with a message that contains the text; if only some orders show it, at least one must.
enum class Found { always, sometimes };
template <typename... Parameters, typename... Arguments>
void expect_fault(Found found, cudaError_t expected, const char* text, Shape shape, void (*kernel)(Parameters...), Arguments... arguments) {
  int faults = 0;
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    ulp_emulator_seed(seed);
    ulp_emulator_reset();
    const cudaError_t error = run(shape, kernel, arguments...);
    const std::string message = ulp_emulator_last_message();
    if (found == Found::sometimes && error == cudaSuccess) continue;
    require(error == expected,
            std::string(cudaGetErrorName(error)) + " instead of " + cudaGetErrorName(expected) + " and \"" + text + "\": " + message);
    require(message.find(text) != std::string::npos, "the message lacks \"" + std::string(text) + "\": " + message);
    ++faults;
  }
  require(faults > 0, "no order of events showed the fault");
  ulp_emulator_reset();
}
template <typename... Parameters, typename... Arguments>
void expect_fault(const char* text, Shape shape, void (*kernel)(Parameters...), Arguments... arguments) {
  expect_fault(Found::always, cudaErrorLaunchFailure, text, shape, kernel, arguments...);
}

inline void configure(int arch) { require(ulp_emulator_configure(arch, 132, uint64_t{1} << 30) == 1, "configure"); }

}  // namespace ulp::emulator::test
