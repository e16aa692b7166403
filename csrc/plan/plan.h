// Plan: a network as a list of steps over images of codes, its buffers laid out once.
//
// A plan is built step by step, checked as it grows (std::invalid_argument says what is wrong), then finalized; from then on it never
// changes, and any number of threads may run it at once. Shapes are of one image. The contract is ulp/_core.pyi.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../conv/conv.h"
#include "../pack/packed_matrix.h"

namespace ulp {

struct Border {
  int top = 0, left = 0, bottom = 0, right = 0;
};

// NHWC, one image after another. Codes: one byte each, the channels of a pixel padded to a multiple of 4 (unless tight), around the image a
// border; pads and border hold `zero`. Floats: neither.
struct Tensor {
  int height, width, channels;
  bool is_codes;
  int bits;
  int zero;
  float scale;
  Border border{};
  std::vector<bool> written{};  // which channels a step has written
  bool tight_reader = false;    // a conv reads pixels without gaps (conv.h), so that is how they lie;
  bool padded_reader = false;   // a step reads pixels of a multiple of 4 channels
  // Set by finalize, in bytes:
  int64_t pixel = 0, row = 0, image = 0;
  int64_t first = 0;  // of pixel (0, 0) of the first image, from the arena's start
  int64_t begin = 0;  // of the whole tensor
  int first_step = -1, last_step = -1;
  int port = -1;  // of the output that the tensor is itself, so that nothing is copied; else -1 and it lies in the arena

  int64_t element() const { return is_codes ? 1 : 4; }
  bool whole() const { return border.top + border.left + border.bottom + border.right == 0; }
};

struct Slice {
  int tensor;
  int channel;
};

struct Thresholds {
  std::vector<int32_t> values;  // channels x max_code, ascending; empty: the tensor's quantizer decides
  std::vector<int32_t> flip;    // 0 or -1 a channel
};

// The epilogue of a step (ops.h: Finish), as it is described.
struct FinishSpec {
  std::vector<float> scale;  // one a channel; empty where the step knows it itself
  std::vector<float> bias;
  std::vector<int32_t> start;  // one a channel, added to the sums; empty: nothing
  float unit = 1.0f;           // of the values of the epilogue: scales of what is read are divided by it, inverses multiplied
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
  Slice residual{-1, 0};
  std::vector<Slice> targets;
  std::vector<Thresholds> thresholds;  // one a target, or none
};

// One array of a call.
struct Input {
  const void* data;  // contiguous
  int64_t images;
};

struct StepInfo {
  std::string name;
  std::string method{};
  int source = -1;
  std::vector<int> targets{};
  int64_t macs = 0;
  int a_bits = 0;
  int w_bits = 0;
};

class Step;
struct Context;

class Plan {
 public:
  Plan();
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  int codes(int64_t height, int64_t width, int64_t channels, int bits, int zero, double scale);
  int floats(int64_t height, int64_t width, int64_t channels);

  // divide: codes by x / scale, as ONNX defines them, instead of x * (1 / scale).
  void input_floats(int64_t channels, int64_t height, int64_t width, const std::vector<int>& targets, bool divide);
  void input_codes(int tensor, bool nhwc);
  // padding: top, left, bottom, right. Weights of kernel height x padded (width x channels) are `tight` (conv.h); where K fits
  // both ways they are taken so, too. method: "", "direct", "winograd" or a kernel's name. `weights` must outlive the plan.
  void conv(Slice source, const PackedMatrix& weights, const int (&kernel)[2], const int (&stride)[2], const int (&padding)[4],
            const int (&dilation)[2], int w_zero, FinishSpec finish, const std::string& method);
  // weights: kernel[0] x kernel[1] x channels
  void depthwise(int source, std::vector<int8_t> weights, const int (&kernel)[2], const int (&stride)[2], const int (&padding)[4],
                 const int (&dilation)[2], FinishSpec finish);
  void linear(int source, const PackedMatrix& weights, int w_zero, FinishSpec finish, const std::string& kernel);
  // rows, columns: begin and end of each window, clipped to the image; least: of each channel, whether its least value is taken instead of
  // the largest; empty: of none
  void max_pool(int source, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns, const int (&dilation)[2],
                const std::vector<bool>& least);
  void window_mean(int source, std::vector<int32_t> rows, std::vector<int32_t> columns, std::vector<float> divisor, FinishSpec finish);
  void rescale(int source, FinishSpec finish);
  void gather(Slice source, int64_t channels, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns);
  void output(int tensor, bool nhwc);
  // group: images that go through the steps together. throughput: where a call brings several groups they go to threads, instead of
  // each step's rows. tune: convolutions that can be computed in several ways are timed, on this CPU, for one image, with the threads of
  // now (one with throughput).
  void finalize(int64_t group, bool throughput, bool tune);

  // What a caller must bring: the dtype and shape of one image of the input, and of each output.
  struct Port {
    bool is_codes;
    std::vector<int64_t> shape;
  };
  const Port& input_port() const { return input_port_; }
  const std::vector<Port>& output_ports() const { return output_ports_; }

  // outputs: one array a port, images x its shape. step_ns: where not nullptr, ns of each step are added there.
  // Throws NotFinite or CodeOutOfRange for the input's values.
  void run(const Input& input, void* const* outputs, int64_t* step_ns) const;

  const std::vector<StepInfo>& steps() const { return infos_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  bool finalized() const { return finalized_; }

 private:
  friend class Step;
  // All checks come before anything changes, so a step that is refused leaves the plan as it was.
  const Tensor& tensor(int id, const char* what) const;
  const Tensor& codes_of(int id, const char* what) const;
  const Tensor& readable(Slice slice, int64_t channels, const char* what) const;
  void check_write(const std::vector<Slice>& slices, int64_t channels, int64_t height, int64_t width, const char* what) const;
  void check_finish(const FinishSpec& finish, int64_t channels, int64_t height, int64_t width, int source, bool has_scale,
                    const char* what) const;
  void check_pixels(int id, bool tight) const;
  void add(std::unique_ptr<Step> step, std::vector<int> reads, const std::vector<Slice>& writes, int64_t channels, StepInfo info);
  void add_with(std::unique_ptr<Step> step, int source, const FinishSpec& finish, int64_t channels, StepInfo info);
  void need_border(int id, const ConvShape& shape, int more);
  void lay_out(int64_t group);
  void tune_steps();
  AlignedBytes new_arena() const;
  void run_group(const Context& context) const;

  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<StepInfo> infos_;
  std::vector<std::vector<int>> fresh_;  // tensors that each step is the first to write
  Port input_port_{};
  std::vector<Port> output_ports_;
  bool finalized_ = false;
  bool throughput_ = false;
  int64_t group_ = 1;
  int64_t arena_bytes_ = 0;
  int64_t weight_bytes_ = 0;
  mutable std::mutex arenas_mutex_;
  mutable std::vector<AlignedBytes> arenas_;  // free ones
};

}  // namespace ulp
