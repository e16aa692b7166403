// A step of a plan: named fields, a check when it is added, and a run over the images of a group. Each is a struct in a file of its own
// under steps/; steps/table.cpp lists them.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../conv/conv.h"
#include "../gemm/range.h"
#include "../ops/rows.h"
#include "checks.h"
#include "fields.h"

namespace ulp {

struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct CodeOutOfRange : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a caller brings or gets: the dtype and the shape of one image.
struct Port {
  bool is_codes;
  std::vector<int64_t> shape;

  Port(const Tensor& t, bool nhwc);
};

// What a step that passed its checks does to the plan.
struct Effects {
  std::vector<int> reads;     // tensors, the source first
  std::vector<Slice> writes;  // each of them `channels` wide
  int64_t channels = 0;
  // Of the source: pixels around it that are read, and how its pixels are read.
  Border border{};
  PixelLayout layout = PixelLayout::any;
  // For tables of steps.
  int64_t macs = 0;
  int a_bits = 0;
  int w_bits = 0;
  int64_t weight_bytes = 0;
  bool whole_batch = false;  // all images of a call count for each, and have to be one group
  // Of steps that read the arrays of a call, or write them.
  std::optional<Port> input;
  std::optional<Port> output;
};

// A group of images on its way through the steps.
struct Context {
  const std::vector<Tensor>& tensors;
  uint8_t* arena;
  int64_t images;
  int64_t first_image;  // in the arrays of the call
  const void* const* inputs;
  void* const* outputs;
  Tasks tasks;
  const Ops& ops;
  uint8_t* scratch = nullptr;  // of the step that runs
  const RowOps& row_ops = ulp::row_ops(current_isa());

  const Tensor& tensor(int id) const { return tensors[static_cast<size_t>(id)]; }
  // The images of a tensor from a channel on. Precondition: it holds codes, or floats.
  ImageView<uint8_t> codes(Slice s) const;
  ImageView<uint8_t> codes(int id) const { return codes({id, 0}); }
  ImageView<float> floats(Slice s) const;
};

struct Step {
  virtual ~Step() = default;

  virtual FieldList fields() = 0;
  // Whether the plan can take it in: throws std::invalid_argument, and otherwise works out what `run` needs. The plan stays as it was.
  virtual Effects check(const Checks& plan) = 0;
  virtual void run(const Context& c) const = 0;

  // What computes it, for tables of steps: an operation's name or a kernel's.
  virtual std::string method() const = 0;
  // Called once the tensors have their strides. Returns bytes of scratch memory per image.
  virtual int64_t bind(const std::vector<Tensor>& /*tensors*/, int64_t /*group*/) { return 0; }
  // Measures the ways that bind found and keeps the fastest; what the arena holds afterwards is unspecified.
  virtual void tune(const Context& /*c*/) {}
  // Of a step that writes output `port`: whether its source, as it lies, is that output, so that nothing is to be copied.
  virtual bool output_is_source(const Tensor& /*source*/) const { return false; }
};

struct StepKind {
  const char* name;   // of the method of Plan in Python, and in saved files
  const char* shown;  // in messages and tables
  std::unique_ptr<Step> (*make)();
};

// All kinds of steps (steps/table.cpp).
const std::vector<StepKind>& step_kinds();

// Runs body(image, first row, end) for all rows of all images of the group, on several threads where the images have so many elements that
// this pays.
template <class Body>
void for_rows(const Context& c, int64_t height, int64_t elements, const Body& body) {
  constexpr int64_t kParallelElements = int64_t{1} << 15;
  Tasks tasks = c.tasks;
  tasks.parallel &= elements * c.images >= kParallelElements;
  const int64_t parts = tasks.parallel ? std::min<int64_t>(height, 2 * tasks.threads) : 1;
  tasks.run(c.images * parts, [&](int64_t index) {
    const Range rows = part(height, parts, index % parts);
    body(index / parts, rows.begin, rows.end);
  });
}

// Bytes of sums on their way to the epilogue: they stay in the first-level cache.
inline constexpr int64_t kSumBytes = 12 * 1024;

}  // namespace ulp
