// What a step is checked against when it is added: the tensors of the plan as it is. Nothing here changes them.
#pragma once

#include <string>
#include <vector>

#include "../pack/bits.h"
#include "fields.h"

namespace ulp {

// Of kernels, strides, dilations and paddings.
inline constexpr int kMaxKernelSide = 4096;

// Throws std::invalid_argument.
[[noreturn]] void refuse(const std::string& what);

std::string shape_text(int64_t height, int64_t width, int64_t channels);
// Each side in 1..2^24, at most 2^34 elements.
void check_sides(int64_t height, int64_t width, int64_t channels);
void check_range(const char* what, int64_t value, int64_t min, int64_t max);
bool positive_normal(float x);

// All members throw std::invalid_argument, with a message that begins with the step's name.
class Checks {
 public:
  // inputs, outputs: how many the plan has.
  Checks(const char* step, const std::vector<Tensor>& tensors, size_t inputs, size_t outputs)
      : step_(step), tensors_(tensors), inputs_(inputs), outputs_(outputs) {}

  size_t inputs() const { return inputs_; }
  size_t outputs() const { return outputs_; }

  [[noreturn]] void refuse(const std::string& what) const;

  const Tensor& tensor(int id) const;
  // One of codes.
  const Tensor& codes(int id) const;
  // One whose channels slice.channel .. slice.channel + channels - 1 have been written.
  const Tensor& readable(Slice slice, int64_t channels) const;
  // One of codes, all of whose channels have been written.
  const Tensor& readable_codes(int id) const;
  // The slices are inside tensors of height x width pixels, no channel has been written, and none is named twice.
  void writable(const std::vector<Slice>& slices, int64_t channels, int64_t height, int64_t width) const;
  // What `writable` says, and `target` holds codes of the same quantizer as `source`, which is another tensor.
  void copyable(int source, Slice target, int64_t channels, int64_t height, int64_t width) const;
  // No earlier reader of the tensor needs the other of `padded` and `tight`.
  void layout(int id, PixelLayout layout) const;

  // Each window is within 0..size and not empty.
  void windows(const char* what, const Windows& windows, int64_t size) const;
  // |start[n] + sum over K of (a - a_zero) * (w - w_zero)| stays within int32.
  int64_t sums(int64_t k, int a_bits, int a_zero, Encoding w, int w_zero, const Ints& start) const;

 private:
  const char* step_;
  const std::vector<Tensor>& tensors_;
  size_t inputs_;
  size_t outputs_;
};

}  // namespace ulp
