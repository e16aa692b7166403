// A network on a GPU: the steps of a plan (csrc/plan), one or a few kernels each, over one block of device memory. Plain C++17, no CUDA
// types. Implemented by network.cpp and network_*.cu.
//
// Images lie one after another without borders, channels last. Codes: one byte each, a pixel padded to a multiple of 4, the pad holding
// `zero`. Floats: 4 bytes, no pad. Between convolutions codes may lie as planes instead (layer_finish.h), by what is modelled to be faster
// for a number of images. What a step computes is that of the step of the same name in csrc/plan/steps, bit for bit; the fields are those
// that a plan has accepted.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cuda/api.h"
#include "cuda/layer_finish.h"

namespace ulp::cuda {

class Graph;
class Turn;

struct NetTensor {
  int height = 0, width = 0, channels = 0;
  bool is_codes = false;
  int bits = 0;
  int zero = 0;
  float scale = 1;
  int64_t at = 0;          // bytes from the arena's start, for one image; of so many images that many times as far
  bool as_planes = false;  // in a run: the codes lie as planes

  int element() const { return is_codes ? 1 : 4; }
  int pixel() const { return is_codes ? static_cast<int>(round_up(channels, 4)) : channels; }  // elements
  int64_t pixels() const { return int64_t{height} * width; }
  int64_t bytes() const { return pixels() * pixel() * element(); }
  CodePlanes planes() const { return {bits, static_cast<int>(round_up(channels, 128) / 8)}; }
  int64_t pixel_planes() const { return int64_t{planes().count} * planes().bytes; }  // bytes
  int max_code() const { return (1 << bits) - 1; }
};

// Channels of a tensor, from `channel` on.
struct Place {
  int tensor = -1;
  int channel = 0;
};

// Numbers that a step needs on the device.
template <typename T>
class Constants {
 public:
  Constants() = default;
  Constants(int device, const std::vector<T>& values) : memory_(device, values.size() * sizeof(T)) {
    upload(memory_.data(), values.data(), values.size() * sizeof(T), device);
  }
  const T* data() const { return static_cast<const T*>(memory_.data()); }  // null where there are none

 private:
  DeviceMemory memory_;
};

struct Run {
  const std::vector<NetTensor>& tensors;
  unsigned char* arena;
  int64_t images;
  unsigned char* scratch;         // of the step that runs
  const DeviceMemory* workspace;  // as large as every step needs
  const unsigned char* outside;   // 256 times 16 bytes: of each code
  int* status;                    // two numbers, see Network::status
  const void* const* inputs;      // device addresses, of steps that have a port
  void* const* outputs;
  Stream stream;

  const NetTensor& tensor(int id) const { return tensors[static_cast<size_t>(id)]; }
  unsigned char* data(Place p) const;
};

class DeviceStep {
 public:
  virtual ~DeviceStep() = default;
  std::vector<int> reads;
  std::vector<int> writes;
  int input = -1;   // the port that it reads
  int output = -1;  // the port that it writes

  virtual int64_t scratch_bytes() const { return 0; }  // per image
  virtual int64_t workspace_bytes(int64_t /*images*/) const { return 0; }
  virtual int64_t elements() const { return 0; }  // per image, that a kernel numbers beside those of tensors
  virtual std::string method(int64_t /*images*/, const std::vector<NetTensor>& /*tensors*/) const { return "elementwise"; }
  // Whether a tensor that it reads or writes may lie as planes, and whether it multiplies these planes.
  virtual bool takes_planes(int /*tensor*/) const { return false; }
  virtual bool multiplies_planes(int /*tensor*/) const { return false; }
  // Modelled, of what depends on how tensors lie.
  virtual double clocks(int64_t /*images*/, const std::vector<NetTensor>& /*tensors*/) const { return 0; }
  virtual void start(const Run& run) const = 0;
};

// The fields of plan/finish_spec.h.
struct FinishFields {
  struct Target {
    Place place;
    Constants<int> thresholds, flip;
    std::optional<Place> other;
    Constants<unsigned char> table;  // none: nothing comes after
    int after_bits = 0, after_zero = 0;
    float after_scale = 0;
  };
  Constants<float> scale, bias;
  Constants<int> start;
  float unit = 1, low = 0, high = 0;
  std::optional<Place> residual;
  std::vector<Target> targets;

  LayerFinish on(const Run& run, float one_scale) const;
  void add_to(DeviceStep& step) const;  // what it reads and writes
};

struct Window2D {
  std::array<int, 2> kernel{1, 1}, stride{1, 1}, dilation{1, 1};
  std::array<int, 4> padding{};  // top, left, bottom, right
  std::array<int, 2> out{};      // height, width
};

// What a step is made of; the device and tensors are the network's.
struct ConvFields {
  Place source;
  std::shared_ptr<const Weights> weights;  // K x N of 4 or 8 bits, rows in the order (ky, kx, c), channels = K / taps a multiple of 4
  int weight_zero = 0;
  // For 1-bit tensor cores: the same of 1 or 2 bits, K x N with the layer's own channels, padded to a multiple of 128 by weights that are
  // stored as 0. Null: none.
  std::shared_ptr<const Weights> planes;
  int plane_zero = 0;
  Window2D window;
  FinishFields finish;
  std::string kernel;  // empty: the best
};
struct DepthwiseFields {
  int source = -1;
  Constants<signed char> weights;  // taps x channels
  Window2D window;
  FinishFields finish;
};
struct MaxPoolFields {
  int source = -1;
  Place target;
  Constants<int> rows, columns;  // per window: where it begins and ends
  std::array<int, 2> dilation{1, 1};
  Constants<unsigned char> masks;  // per channel 0xFF where the smallest code is taken; none: nowhere
};
struct MeanFields {
  int source = -1;
  Constants<int> rows, columns;
  Constants<float> scales;  // per window
  FinishFields finish;
  std::array<int, 2> out{};
};
struct RescaleFields {
  int source = -1;
  float scale = 0;
  FinishFields finish;
};
// target[y][x][c] = source[rows[y] + columns[x] + channels[c]], offsets in elements; the code of zero where one of rows, columns is -1.
struct MoveFields {
  Place source, target;
  Constants<int> rows, columns, channels;  // channels: none: c itself
  int count = 0;                           // channels that are moved
};
struct LookupFields {
  int source = -1;
  Place target;
  Constants<unsigned char> codes;  // tables x levels
  Constants<float> values;         // or these
  bool per_channel = false;
};
struct CombineFields {
  std::vector<Place> operands, targets;
  int channels = 0;
  bool multiply = false;
  float low = 0, high = 0;
  bool divide = false;
};
struct LinearFloatsFields {
  int source = -1;
  Place target;
  Constants<float> weights, bias;  // K x N, N
  int n = 0;
};
struct InputFields {
  std::vector<int> targets;
  int port = 0;
  bool codes = false;
  bool divide = false;
  bool nhwc = false;
};
struct OutputFields {
  int tensor = -1;
  int port = 0;
  bool nhwc = false;
};

// What steps know of where they run.
struct Place2D {
  int device;
  const std::vector<NetTensor>& tensors;
  const NetTensor& tensor(int id) const { return tensors[static_cast<size_t>(id)]; }
};

std::unique_ptr<DeviceStep> make_step(ConvFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(DepthwiseFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(MaxPoolFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(MeanFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(RescaleFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(MoveFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(LookupFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(CombineFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(LinearFloatsFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(InputFields fields, const Place2D& at);
std::unique_ptr<DeviceStep> make_step(OutputFields fields, const Place2D& at);

// Any number of threads may run it: runs take turns, in the order of their calls, also on different streams.
class Network {
 public:
  explicit Network(int device);
  ~Network();

  int add(NetTensor tensor);
  template <typename Fields>
  void add(Fields fields) {
    check_open();
    steps_.push_back(make_step(std::move(fields), Place2D{device_, tensors_}));
  }
  void finalize();

  // Starts the steps for so many images on the stream and returns. The first run of a number of images records a graph, and may allocate
  // and wait. A stream under capture gets the kernels themselves, and needs a run of as many images, or more, before; from then on the
  // arena stays where it is, and no larger number is accepted.
  void run(int64_t images, const void* const* inputs, void* const* outputs, Stream stream);
  // Starts one step without a port, on what the arena holds, outside of every graph and turn; for benchmarks. Needs a run of as many
  // images, or more, before.
  void start_step(size_t step, int64_t images, Stream stream) const;
  // Of the last run: whether an input or a value that becomes codes was not finite, and whether an input's code was too large, or the
  // length of a sequence none. Waits.
  std::array<bool, 2> status(Stream stream) const;

  int device() const { return device_; }
  int64_t arena_bytes() const { return arena_bytes_; }  // per image
  int64_t largest_tensor() const;                       // elements of an image, or of what a step makes of it
  const std::vector<std::unique_ptr<DeviceStep>>& steps() const { return steps_; }
  std::vector<std::string> methods(int64_t images) const;  // of each step
  const std::vector<NetTensor>& tensors() const { return tensors_; }

 private:
  enum class Part { inputs, middle, outputs };

  void check_open() const;
  void lay_out();
  bool may_be_planes(int tensor) const;
  std::vector<NetTensor> laid_out(int64_t images) const;  // the tensors, those as planes that are modelled to be faster so
  int64_t workspace_bytes(int64_t images) const;
  bool holds(int64_t images) const;
  void grow(int64_t images);
  void start(Part part, const Run& run) const;

  int device_;
  std::vector<NetTensor> tensors_;
  std::vector<std::unique_ptr<DeviceStep>> steps_;
  std::vector<std::vector<int>> fresh_;  // per step, tensors of padded pixels that no earlier step writes
  std::vector<int64_t> scratch_;         // per step, where its scratch memory is
  std::vector<int> maybe_planes_;        // tensors
  bool finalized_ = false;
  int64_t arena_bytes_ = 0;
  int64_t room_ = 0;    // images that the arena holds
  bool fixed_ = false;  // somebody's graph knows where the arena is
  DeviceMemory arena_;
  DeviceMemory workspace_;
  Constants<unsigned char> outside_;
  DeviceMemory status_;
  std::map<int64_t, std::unique_ptr<Graph>> graphs_;  // by number of images
  std::unique_ptr<Turn> turn_;
  std::mutex mutex_;
};

}  // namespace ulp::cuda
