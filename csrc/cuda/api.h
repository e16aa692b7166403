// Matrix products on a GPU, as the bindings see them: plain C++17, no CUDA types. Implemented by devices.cpp, memory.cpp, pack.cu, pick.cpp
// and product.cu.
//
// Pointers are device addresses unless a comment says host. A Stream is a cudaStream_t. Every function makes its device current and
// restores the caller's before it returns or throws.
//
// Preconditions, which the bindings check: encodings are valid, 0 <= m, n, k <= kLargestSide, the device exists, strides and pointers fit,
// sums stay in int32. Shapes may be empty: with n or m = 0 nothing is written, with k = 0 every sum is zero.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gemm/shape.h"
#include "pack/bits.h"
#include "pack/pack.h"

namespace ulp::cuda {

using Stream = void*;  // nullptr: the default stream

inline constexpr int64_t kLargestSide = INT64_C(2147483647);
// Alignment of a workspace, of packed weights and of channel sums, in bytes.
inline constexpr size_t kAlignment = 256;

// The runtime or the driver refused; what() has its reason.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// cudaErrorMemoryAllocation.
struct OutOfMemory : DeviceError {
  using DeviceError::DeviceError;
};
// A value lies outside the interval of its encoding. index: of the first such value, counted row by row.
struct OutOfRange : std::runtime_error {
  explicit OutOfRange(int64_t at) : std::runtime_error("a value is out of range"), index(at) {}
  int64_t index;
};

// ------------------------------------------------------------------------------------------------------------------------ devices

// What the choice of a kernel knows of a device.
struct Machine {
  int arch = 0;  // 10 * major + minor: 75, 80, 86, 89, 90, 100, 120
  int sms = 0;   // multiprocessors
};

struct Device {
  std::string name;
  Machine machine;
  int64_t memory = 0;  // bytes
};

// Never empty: throws DeviceError with the driver's reason if there is no device.
std::vector<Device> devices();
// Cheap, as every call asks. DeviceError if there is no such device.
Machine machine_of(int device);
// The calling thread's current device.
int current_device();
// (name, value): "cuda" is the version of the toolkit, "architectures" the targets as in ULP_CUDA_ARCHITECTURES.
std::vector<std::pair<std::string, std::string>> build_facts();

// ------------------------------------------------------------------------------------------------------------------------- memory

// Bytes of a device's memory, aligned to kAlignment, not initialised. Freed once no work that was started earlier can still read them.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(int device, size_t size);  // OutOfMemory; size 0 allocates nothing
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~DeviceMemory();

  void* data() const { return data_; }
  size_t size() const { return size_; }
  int device() const { return device_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  int device_ = 0;
};

// Copies to a device's memory; complete on return.
void upload(void* target, const void* host, size_t size, int device);
// Copies from a device's memory after all earlier work of the stream; complete on return.
void download(void* host, const void* source, size_t size, int device, Stream stream);

// ------------------------------------------------------------------------------------------------------------------------ weights

// b (K x N), packed on one device at bits / 8 bytes per value (layout.h).
struct Weights {
  int64_t k = 0;
  int64_t n = 0;
  Encoding encoding{1, false};
  DeviceMemory data;
  DeviceMemory sums;  // n int32: sums over k of the stored values (arguments.h)
};

// b in host memory, any strides (bytes), values in the interval of e.
Weights pack_on_host(const MatrixView& b, Encoding e, int device);
// b in the device's memory, strides in bytes and not negative. Waits for the stream; OutOfRange with the index in K x N row by row.
Weights pack_on_device(const MatrixView& b, Encoding e, int device, Stream stream);
// Writes the values, int8 or uint8 as the encoding says, row by row to host memory.
void unpack(const Weights& weights, uint8_t* host);

// --------------------------------------------------------------------------------------------------------------------------- gemm

// What the choice of a kernel knows of a call.
struct Situation {
  Shape shape{};
  bool aligned = true;        // a's address and row_stride are multiples of 16
  bool b_zero_point = false;  // some b_zero is not 0
};

// The choice for a call. Pure: no device is asked.
struct Choice {
  std::string kernel;
  std::array<int, 3> tile{};  // m, n, k
  std::array<int64_t, 3> grid{};
  int splits = 1;  // parts of K
  int64_t shared_bytes = 0;
  int64_t workspace_bytes = 0;  // that gemm needs in all: slices of split sums, row sums of a
  double clocks = 0;            // modelled, of the whole call
  std::string text;             // the choice explained in a few lines
};

// Best first.
std::vector<std::string> kernel_names();
// kernel: a name, a name with a number of parts of K as in "wgmma_128x16/4", or nullptr for the best one. Throws std::invalid_argument with
// a message for the user if the name is unknown (lists the known ones) or if the kernel cannot run this call on this machine.
Choice pick(const Situation& situation, const Machine& machine, const char* kernel);

// a: m rows of k bytes in a device's memory, columns adjacent.
struct Activations {
  const void* data = nullptr;
  int64_t m = 0;
  int64_t row_stride = 0;  // bytes; >= k where m > 1
  Encoding encoding{1, false};
  int32_t zero = 0;
};

// Whether every row starts at a multiple of 16 bytes.
inline bool is_aligned(const Activations& a) { return reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && a.row_stride % 16 == 0; }

// The CPU's epilogue with device addresses; a scale that all columns share is a plain number.
struct DeviceEpilogue {
  OutputKind kind = OutputKind::int32;
  float scale = 1.0f;
  const float* scales = nullptr;  // n; instead of scale
  const int32_t* bias = nullptr;
  const float* float_bias = nullptr;
  bool relu = false;
  int qmin = 0;
  int qmax = 0;
  int zero = 0;
};

struct DeviceProblem {
  Activations a;
  const Weights* b = nullptr;
  int32_t b_zero = 0;
  const int32_t* b_zeros = nullptr;  // n; instead of b_zero
  DeviceEpilogue epilogue;
  void* out = nullptr;     // m x n of the epilogue's type, columns adjacent; overlaps no input
  int64_t out_stride = 0;  // elements
};

// Starts the product on the stream and returns. It neither allocates nor synchronises, so that a stream under capture accepts it.
// workspace: pick(...).workspace_bytes of the same call, at a multiple of kAlignment; its contents do not matter before or after.
// std::invalid_argument if it is too small, or as pick.
void gemm(const DeviceProblem& problem, const char* kernel, void* workspace, size_t workspace_bytes, Stream stream);

// Index, counted row by row, of the first of m x k values outside the interval of a's encoding, or -1. Waits for the stream.
int64_t find_out_of_range(const Activations& a, int64_t k, int device, Stream stream);

}  // namespace ulp::cuda
