// An input, uint8 codes (images, height, width, channels) with `nhwc`, else (images, channels, height, width), goes into a tensor of
// height x width x channels. CodeOutOfRange where one is above 2^bits - 1.
#include <atomic>
#include <cstring>

#include "../step.h"

namespace ulp {
namespace {

struct InputCodesStep final : Step {
  int tensor = -1;
  bool nhwc = false;
  // Found by check:
  size_t port = 0;

  FieldList fields() override { return {{"tensor", &tensor}, {"nhwc", &nhwc}}; }

  std::string method() const override { return "copy"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.codes(tensor);
    Effects e;
    e.writes = {{tensor, 0}};
    e.channels = t.channels;
    plan.writable(e.writes, t.channels, t.height, t.width);
    port = plan.inputs();
    e.input = Port(t, nhwc);
    return e;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(tensor);
    const ImageView<uint8_t> to = c.codes(tensor);
    const uint8_t* x = static_cast<const uint8_t*>(c.inputs[port]) + c.first_image * t.elements();
    std::atomic<bool> in_range{true};
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      uint8_t seen = 0;
      for (int64_t y = begin; y < end; ++y) {
        const uint8_t* image = x + i * t.elements();
        seen |= nhwc ? copy_row(t, image, y, to.row(i, y)) : transpose_row(t, image, y, to.row(i, y));
      }
      if (seen > t.max_code()) in_range.store(false);
    });
    if (!in_range.load()) throw CodeOutOfRange("the input holds codes beyond " + std::to_string(t.max_code()));
  }

  // Both copy row y of an image, and return the bits that are set in any of its codes.
  static uint8_t copy_row(const Tensor& t, const uint8_t* image, int64_t y, uint8_t* to) {
    const int64_t codes = int64_t{t.width} * t.channels;
    const uint8_t* from = image + y * codes;
    uint8_t seen = 0;
    for (int64_t j = 0; j < codes; ++j) seen = static_cast<uint8_t>(seen | from[j]);
    if (t.strides.pixel == t.channels) {
      std::memcpy(to, from, static_cast<size_t>(codes));
    } else {
      for (int64_t x = 0; x < t.width; ++x) {
        std::memcpy(to + x * t.strides.pixel, from + x * t.channels, static_cast<size_t>(t.channels));
      }
    }
    return seen;
  }

  static uint8_t transpose_row(const Tensor& t, const uint8_t* image, int64_t y, uint8_t* to) {
    const int64_t pixel = t.strides.pixel;
    uint8_t seen = 0;
    for (int64_t channel = 0; channel < t.channels; ++channel) {
      const uint8_t* from = image + (channel * t.height + y) * t.width;
      for (int64_t x = 0; x < t.width; ++x) {
        seen = static_cast<uint8_t>(seen | from[x]);
        to[x * pixel + channel] = from[x];
      }
    }
    return seen;
  }
};

}  // namespace

std::unique_ptr<Step> make_input_codes() { return std::make_unique<InputCodesStep>(); }

}  // namespace ulp
