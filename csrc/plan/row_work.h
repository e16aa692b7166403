// What steps on rows share: pixels as rows of a RowWork, from and to tensors of a plan.
#pragma once

#include "../ops/output.h"
#include "../ops/row_names.h"
#include "step.h"

namespace ulp {

inline RowFunction row_function(const Checks& plan, const std::string& name) {
  if (const auto function = find_row_function(name)) return *function;
  plan.refuse(": no function is called '" + name + "'");
}

// Runs body(image, y, first x, end) for the pixels of all images, some of a row at a time, on several threads where that pays.
template <class Body>
void for_pixels(const Context& c, int64_t height, int64_t width, int64_t elements, const Body& body) {
  constexpr int64_t kParallelElements = int64_t{1} << 15;
  Tasks tasks = c.tasks;
  tasks.parallel &= elements * c.images >= kParallelElements;
  const int64_t parts = tasks.parallel ? std::min<int64_t>(height * width, 2 * tasks.threads) : 1;
  tasks.run(c.images * parts, [&](int64_t index) {
    const Range pixels = part(height * width, parts, index % parts);
    for (int64_t at = pixels.begin; at < pixels.end;) {
      const int64_t y = at / width, x = at - y * width;
      const int64_t end = std::min(width, x + pixels.end - at);
      body(index / parts, y, x, end);
      at += end - x;
    }
  });
}

// From pixel (y, x) of image i on.
inline Operand operand_at(const Context& c, const Slice& s, int64_t i, int64_t y, int64_t x) {
  const Tensor& t = c.tensor(s.tensor);
  const bool one_pixel = t.height == 1 && t.width == 1;
  Operand o{};
  o.scale = 1.0f;
  if (t.is_codes) {
    const ImageView<uint8_t> codes = c.codes(s);
    o.codes = one_pixel ? codes.row(i, 0) : codes.pixel(i, y, x);
    o.pixel = one_pixel ? 0 : codes.strides.pixel;
    o.scale = t.scale;
    o.zero = t.zero;
  } else {
    const ImageView<float> floats = c.floats(s);
    o.floats = one_pixel ? floats.row(i, 0) : floats.pixel(i, y, x);
    o.pixel = one_pixel ? 0 : floats.strides.pixel;
  }
  return o;
}

inline Target target_at(const Context& c, const Slice& s, int64_t i, int64_t y, int64_t x) {
  const Tensor& t = c.tensor(s.tensor);
  Target to{};
  if (t.is_codes) {
    const ImageView<uint8_t> codes = c.codes(s);
    to.codes = codes.pixel(i, y, x);
    to.pixel = codes.strides.pixel;
    to.inverse = 1.0f / t.scale;
    to.zero = t.zero;
    to.max_code = t.max_code();
  } else {
    const ImageView<float> floats = c.floats(s);
    to.floats = floats.pixel(i, y, x);
    to.pixel = floats.strides.pixel;
  }
  return to;
}

}  // namespace ulp
