// What a plan is made of: each step reads tensors of the arena and writes others.
#pragma once

#include <atomic>
#include <stdexcept>

#include "plan.h"

namespace ulp {

struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct CodeOutOfRange : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One group of images on its way through the steps.
struct Context {
  const std::vector<Tensor>& tensors;
  uint8_t* arena;
  int64_t images;
  int64_t first_image;  // in the arrays of the call
  const void* input;
  void* const* outputs;
  Tasks tasks;
  const Ops& ops;
  int64_t* step_ns;

  const Tensor& tensor(int id) const { return tensors[static_cast<size_t>(id)]; }
  uint8_t* at(int id) const {
    const Tensor& t = tensor(id);
    return t.port >= 0 ? static_cast<uint8_t*>(outputs[t.port]) + first_image * t.image : arena + t.first;
  }
  CodeImages source(Slice s) const {
    const Tensor& t = tensor(s.tensor);
    return {at(s.tensor) + s.channel, {t.pixel, t.row, t.image}};
  }
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const Context& c) const = 0;
  // Once the tensors have their strides. Returns bytes of scratch memory for each image.
  virtual int64_t bind(const std::vector<Tensor>&, int64_t /*group*/, StepInfo&) { return 0; }

  // The output that this step copies a tensor to as it lies; else -1.
  virtual int direct_port(const std::vector<Tensor>&) const { return -1; }
  // Chooses among the ways that bind found, by measurement; what the arena holds afterwards is unspecified.
  virtual void tune(const Context&, StepInfo&) {}

  std::vector<int> reads;
  std::vector<int> writes;
  int64_t scratch = 0;  // from the arena's start; set by finalize
};

// The epilogue of a step that runs: a FinishSpec with the addresses of the arena.
Output make_output(const FinishSpec& finish, const Context& c);

std::unique_ptr<Step> make_input_floats(int64_t channels, int64_t height, int64_t width, std::vector<int> targets, bool divide);
std::unique_ptr<Step> make_input_codes(int tensor, bool nhwc);
std::unique_ptr<Step> make_conv(Slice source, const ConvProblem& problem, FinishSpec finish, std::string method);
std::unique_ptr<Step> make_depthwise(int source, const ConvShape& shape, int a_bits, int a_zero, const std::vector<int8_t>& weights,
                                     FinishSpec finish);
std::unique_ptr<Step> make_linear(int source, const PackedMatrix& weights, int a_bits, int w_zero, FinishSpec finish, std::string kernel);
std::unique_ptr<Step> make_max_pool(int source, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns, int step_y,
                                    int step_x, const std::vector<bool>& least);
std::unique_ptr<Step> make_window_mean(int source, const Tensor& tensor, std::vector<int32_t> rows, std::vector<int32_t> columns,
                                       const std::vector<float>& divisor, FinishSpec finish);
std::unique_ptr<Step> make_rescale(int source, const Tensor& tensor, FinishSpec finish);
std::unique_ptr<Step> make_gather(Slice source, int64_t channels, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns);
std::unique_ptr<Step> make_output_step(int tensor, bool nhwc, size_t port);

}  // namespace ulp
