// A tensor of height x width x channels becomes an output of the plan: float32 or uint8 codes, (images, height, width, channels) with
// `nhwc`, else (images, channels, height, width).
//
// A tensor that lies as the output does, and that no other step reads, is that output: it is written there at once, and nothing is copied.
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct OutputStep final : Step {
  int tensor = -1;
  bool nhwc = false;
  size_t port = 0;

  FieldList fields() override { return {{"tensor", &tensor}, {"nhwc", &nhwc}}; }

  std::string method() const override { return "copy"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable({tensor, 0}, plan.tensor(tensor).channels);
    Effects e;
    e.reads = {tensor};
    e.output = Port(t, nhwc);
    port = plan.outputs();
    return e;
  }

  bool output_is_source(const Tensor& t) const override {
    const bool same_order = nhwc || t.channels == 1 || t.height * int64_t{t.width} == 1;
    return same_order && t.border.empty() && t.strides.pixel == t.channels * t.element_bytes();
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(tensor);
    if (t.port == static_cast<int>(port)) return;
    const int64_t image_bytes = t.elements() * t.element_bytes();
    const ImageView<uint8_t> from = c.codes(tensor);
    uint8_t* to = static_cast<uint8_t*>(c.outputs[port]) + c.first_image * image_bytes;
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        if (nhwc || t.strides.pixel == t.element_bytes()) {
          copy_row(t, from.row(i, y), y, to + i * image_bytes);
        } else if (t.is_codes) {
          transpose_row(t, from.row(i, y), y, to + i * image_bytes);
        } else {
          const float* row = reinterpret_cast<const float*>(from.row(i, y));
          float* plane = reinterpret_cast<float*>(to + i * image_bytes) + y * t.width;
          c.ops.to_planes(row, t.strides.pixel / t.element_bytes(), t.width, t.channels, plane, int64_t{t.height} * t.width);
        }
      }
    });
  }

  static void copy_row(const Tensor& t, const uint8_t* from, int64_t y, uint8_t* image) {
    const int64_t bytes = t.channels * t.element_bytes();  // of a pixel
    uint8_t* to = image + y * t.width * bytes;
    if (bytes == t.strides.pixel) {
      std::memcpy(to, from, static_cast<size_t>(t.width * bytes));
    } else {
      for (int64_t x = 0; x < t.width; ++x) std::memcpy(to + x * bytes, from + x * t.strides.pixel, static_cast<size_t>(bytes));
    }
  }

  static void transpose_row(const Tensor& t, const uint8_t* from, int64_t y, uint8_t* image) {
    for (int64_t n = 0; n < t.channels; ++n) {
      for (int64_t x = 0; x < t.width; ++x) image[(n * t.height + y) * t.width + x] = from[x * t.strides.pixel + n];
    }
  }
};

}  // namespace

std::unique_ptr<Step> make_output() { return std::make_unique<OutputStep>(); }

}  // namespace ulp
