#include "checks.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace ulp {
namespace {

// Beyond these an image is a mistake; products of sizes stay far below 2^63.
constexpr int64_t kMaxElements = int64_t{1} << 34;
constexpr int64_t kMaxSide = 1 << 24;

}  // namespace

void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string shape_text(int64_t height, int64_t width, int64_t channels) {
  return std::to_string(height) + " x " + std::to_string(width) + " x " + std::to_string(channels);
}

void check_sides(int64_t height, int64_t width, int64_t channels) {
  for (const int64_t side : {height, width, channels}) {
    if (side < 1 || side > kMaxSide)
      refuse("image " + shape_text(height, width, channels) + ": each side must be in 1.." + std::to_string(kMaxSide));
  }
  if (height * width > kMaxElements / channels) refuse("image " + shape_text(height, width, channels) + " is too large");
}

void check_range(const char* what, int64_t value, int64_t min, int64_t max) {
  if (value < min || value > max)
    refuse(std::string(what) + " = " + std::to_string(value) + " is outside " + std::to_string(min) + ".." + std::to_string(max));
}

bool positive_normal(float x) { return x > 0 && std::isnormal(x); }

void Checks::refuse(const std::string& what) const { ulp::refuse(std::string(step_) + what); }

const Tensor& Checks::tensor(int id) const {
  if (id < 0 || static_cast<size_t>(id) >= tensors_.size())
    refuse(": there is no tensor " + std::to_string(id) + "; the plan has " + std::to_string(tensors_.size()));
  return tensors_[static_cast<size_t>(id)];
}

const Tensor& Checks::codes(int id) const {
  const Tensor& t = tensor(id);
  if (!t.is_codes) refuse(": tensor " + std::to_string(id) + " holds floats, not codes");
  return t;
}

const Tensor& Checks::readable(Slice slice, int64_t channels) const {
  const Tensor& t = tensor(slice.tensor);
  if (slice.channel < 0 || channels < 1 || channels > t.channels - slice.channel) {
    refuse(": " + std::to_string(channels) + " channels from " + std::to_string(slice.channel) + " on are not within the " +
           std::to_string(t.channels) + " of tensor " + std::to_string(slice.tensor));
  }
  const Range read{slice.channel, slice.channel + channels};
  const int64_t missing = t.written.first_outside(read);
  if (missing != read.end)
    refuse(": no step has written channel " + std::to_string(missing) + " of tensor " + std::to_string(slice.tensor));
  return t;
}

const Tensor& Checks::readable_codes(int id) const { return readable({id, 0}, codes(id).channels); }

void Checks::writable(const std::vector<Slice>& slices, int64_t channels, int64_t height, int64_t width) const {
  const auto twice = [this](int64_t channel, int id) {
    refuse(": channel " + std::to_string(channel) + " of tensor " + std::to_string(id) + " is written twice");
  };
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice slice = slices[i];
    const Tensor& t = tensor(slice.tensor);
    if (t.height != height || t.width != width || slice.channel < 0 || channels > t.channels - slice.channel) {
      refuse(" gives " + shape_text(height, width, channels) + ", which does not fit channel " + std::to_string(slice.channel) +
             " on of tensor " + std::to_string(slice.tensor) + ", " + shape_text(t.height, t.width, t.channels));
    }
    const Range target{slice.channel, slice.channel + channels};
    const int64_t known = t.written.first_inside(target);
    if (known != target.end) twice(known, slice.tensor);
    for (size_t j = 0; j < i; ++j) {
      const Slice other = slices[j];
      if (other.tensor == slice.tensor && std::abs(other.channel - slice.channel) < channels)
        twice(std::max(other.channel, slice.channel), slice.tensor);
    }
  }
}

void Checks::copyable(int source, Slice target, int64_t channels, int64_t height, int64_t width) const {
  if (source == target.tensor) refuse(": the source cannot be the target");
  const Tensor& to = tensor(source).is_codes ? codes(target.tensor) : tensor(target.tensor);
  if (to.is_codes != tensor(source).is_codes || !to.same_quantizer(tensor(source))) refuse(": source and target must share a quantizer");
  writable({target}, channels, height, width);
}

void Checks::layout(int id, PixelLayout layout) const {
  const PixelLayout known = tensor(id).layout;
  if (known != PixelLayout::any && layout != PixelLayout::any && known != layout)
    refuse(": tensor " + std::to_string(id) + " is read both with and without padded channels");
}

void Checks::windows(const char* what, const Windows& windows, int64_t size) const {
  const std::string name = std::string(" ") + what;
  if (windows.shape[1] != 2) {
    refuse(name + " has shape (" + std::to_string(windows.shape[0]) + ", " + std::to_string(windows.shape[1]) + "), expected (windows, 2)");
  }
  if (windows.empty()) refuse(name + ": expected pairs of begin and end");
  for (int64_t i = 0; i < windows.size(); i += 2) {
    if (windows[i] < 0 || windows[i] >= windows[i + 1] || windows[i + 1] > size) {
      refuse(name + " " + std::to_string(windows[i]) + ".." + std::to_string(windows[i + 1]) + " is empty or outside 0.." +
             std::to_string(size));
    }
  }
}

int64_t Checks::sums(int64_t k, int a_bits, int a_zero, Encoding w, int w_zero, const Ints& start) const {
  const SumBound bound{magnitude({a_bits, false}, a_zero), magnitude(w, w_zero)};
  if (k > bound.max_k()) refuse(": K = " + std::to_string(k) + " could overflow int32; it may be at most " + std::to_string(bound.max_k()));
  const int64_t room = bound.room(k);
  if (!std::all_of(start.values.begin(), start.values.end(), [room](int32_t s) { return std::abs(int64_t{s}) <= room; }))
    refuse(": with K = " + std::to_string(k) + " start may be at most " + std::to_string(room) + " in size");
  int64_t largest_start = 0;
  for (const int32_t s : start.values) largest_start = std::max(largest_start, std::abs(int64_t{s}));
  return bound.sum(k) + largest_start;
}

}  // namespace ulp
