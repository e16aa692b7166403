// An input, float32 (images, channels, height, width), or with `nhwc` (images, height, width, channels), becomes the codes of 1 to 4
// tensors of height x width x channels:
//
//     code = clamp(rint(x * (1 / scale)) + zero, 0, max_code)
//
// halves to even; with `divide` by x / scale, as ONNX defines it. Targets of floats take the values. NotFinite where x holds a NaN, or an
// infinity that becomes codes.
#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>

#include "../../gemm/scratch.h"
#include "../step.h"

namespace ulp {
namespace {

struct InputFloatsStep final : Step {
  int channels = 0, height = 0, width = 0;
  std::vector<int> targets;
  bool divide = false;
  bool nhwc = false;
  // Found by check:
  size_t port = 0;

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"channels", &channels}, {"height", &height},           {"width", &width},
            {"targets", &targets},   {"divide", &divide, optional}, {"nhwc", &nhwc, optional}};
  }

  std::string method() const override { return "quantize"; }

  Effects check(const Checks& plan) override {
    check_sides(height, width, channels);
    if (targets.empty() || targets.size() > kMaxTargets)
      plan.refuse(": expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
    Effects e;
    for (const int id : targets) {
      const int has = plan.tensor(id).channels;
      if (has != channels) {
        plan.refuse(": target " + std::to_string(id) + " has " + std::to_string(has) + " channels, expected " + std::to_string(channels));
      }
      e.writes.push_back({id, 0});
    }
    e.channels = channels;
    plan.writable(e.writes, channels, height, width);
    port = plan.inputs();
    e.input = Port(Tensor{height, width, channels, false, 0, 0, 1.0f}, nhwc);
    return e;
  }

  void run(const Context& c) const override {
    const int64_t plane = int64_t{height} * width;
    const float* x = static_cast<const float*>(c.inputs[port]) + c.first_image * channels * plane;
    const bool quantizes = std::any_of(targets.begin(), targets.end(), [&](int id) { return c.tensor(id).is_codes; });
    std::atomic<bool> finite{true};
    for_rows(c, height, channels * plane, [&](int64_t i, int64_t begin, int64_t end) {
      if (!quantizes && has_nan(x + i * channels * plane, begin, end)) finite.store(false);
      for (int64_t y = begin; y < end; ++y) {
        if (nhwc) {
          if (!quantize_pixels(c, x + (i * height + y) * width * channels, i, y)) finite.store(false);
          continue;
        }
        const float* row = x + i * channels * plane + y * width;
        Target row_of[kMaxTargets] = {};
        int count = 0;
        for (const int id : targets) {
          const Tensor& to = c.tensor(id);
          if (!to.is_codes) {
            copy_planes(row, plane, c.floats({id, 0}).row(i, y));
            continue;
          }
          row_of[count].codes = c.codes(id).row(i, y);
          row_of[count].pixel = to.strides.pixel;
          row_of[count].inverse = divide ? 1.0f : 1.0f / to.scale;
          row_of[count].zero = to.zero;
          row_of[count++].max_code = to.max_code();
        }
        if (count == 0) continue;
        if (!(divide ? quantize_divided(c, row, row_of, count) : c.ops.quantize(row, plane, width, channels, row_of, count)))
          finite.store(false);
      }
    });
    if (!finite.load()) throw NotFinite(quantizes ? "the input holds a NaN or an infinity" : "the input holds a NaN");
  }

  // Whether rows of an image hold a NaN.
  bool has_nan(const float* image, int64_t begin, int64_t end) const {
    const int64_t sections = nhwc ? 1 : channels, row = int64_t{width} * (nhwc ? channels : 1);
    bool found = false;
    for (int64_t s = 0; s < sections; ++s) {
      const float* x = image + (s * height + begin) * row;
      for (int64_t n = 0; n < (end - begin) * row; ++n) found |= x[n] != x[n];
    }
    return found;
  }

  // Channel after channel of one row of the image becomes pixel after pixel.
  void copy_planes(const float* row, int64_t plane, float* to) const {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t n = 0; n < channels; ++n) to[x * channels + n] = row[n * plane + x];
    }
  }

  // One row of an image whose channels lie side by side.
  bool quantize_pixels(const Context& c, const float* row, int64_t i, int64_t y) const {
    const int64_t count = int64_t{width} * channels;
    bool finite = true;
    for (const int id : targets) {
      const Tensor& t = c.tensor(id);
      if (!t.is_codes) {
        std::memcpy(c.floats({id, 0}).row(i, y), row, static_cast<size_t>(count) * sizeof(float));
        continue;
      }
      Target to{};
      to.codes = c.codes(id).row(i, y);
      to.inverse = 1.0f / t.scale;
      to.zero = t.zero;
      to.max_code = t.max_code();
      const float divisor = divide ? t.scale : 0.0f;
      if (t.strides.pixel == channels) {
        finite &= c.row_ops.quantize(row, count, to, divisor, 0.0f);
        continue;
      }
      for (int64_t x = 0; x < width; ++x, to.codes += t.strides.pixel)
        finite &= c.row_ops.quantize(row + x * channels, channels, to, divisor, 0.0f);
    }
    return finite;
  }

  // One row of the image, divided by each target's scale before it is quantized.
  bool quantize_divided(const Context& c, const float* row, const Target* row_of, int count) const {
    thread_local Scratch memory;
    float* quotients;
    memory.lay_out(scratch_array(quotients, int64_t{channels} * width));
    bool finite = true;
    int t = 0;
    for (const int id : targets) {
      const Tensor& to = c.tensor(id);
      if (!to.is_codes) continue;
      for (int64_t n = 0; n < channels; ++n) divide_row(row + n * height * width, to.scale, quotients + n * width);
      finite &= c.ops.quantize(quotients, width, width, channels, row_of + t++, 1);
    }
    assert(t == count);
    static_cast<void>(count);
    return finite;
  }

  // A quotient that would leave float32 is clamped first, to 2^8 steps; an infinity or a NaN stays what it is.
  void divide_row(const float* from, float scale, float* to) const {
    if (scale >= 1.0f) {
      for (int64_t x = 0; x < width; ++x) to[x] = from[x] / scale;
      return;
    }
    const float max = 256.0f * scale;
    for (int64_t x = 0; x < width; ++x) {
      const float v = from[x];
      const float clamped = v > max ? max : v < -max ? -max : v;
      to[x] = (v - v == 0 ? clamped : v) / scale;
    }
  }
};

}  // namespace

std::unique_ptr<Step> make_input_floats() { return std::make_unique<InputFloatsStep>(); }

}  // namespace ulp
