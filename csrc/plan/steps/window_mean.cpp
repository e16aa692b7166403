// The mean of each window, per channel, with an epilogue:
//
//     v = float32(sum of (u - zero) over the window) * (scale / unit / divisor[y][x])
//
// source: H x W x C codes; rows: H' windows, columns: W' windows, not empty; divisor: H' x W'; the result is H' x W' x C. The sum of a
// window stays in int32: H * W * max_code <= 2^31 - 1.
#include <cmath>

#include "../../gemm/scratch.h"
#include "../finish_spec.h"
#include "../step.h"

namespace ulp {
namespace {

struct WindowMeanStep final : Step {
  int source = -1;
  Windows rows, columns;
  Array<float, 2> divisor;
  FinishSpec finish;

  std::vector<float> scales{};  // per window

  FieldList fields() override {
    return {{"source", &source}, {"rows", &rows}, {"columns", &columns}, {"divisor", &divisor}, {"finish", &finish}};
  }

  std::string method() const override { return "window"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    plan.windows("rows", rows, t.height);
    plan.windows("columns", columns, t.width);
    const int64_t height = rows.shape[0], width = columns.shape[0];
    if (divisor.shape != std::array<int64_t, 2>{height, width}) plan.refuse(": expected one divisor per window");
    for (const float d : divisor.values) {
      if (!std::isfinite(d) || d == 0) plan.refuse(": divisors must be finite and not 0");
      if (!std::isfinite(t.scale / finish.unit / d)) plan.refuse(": scale / divisor is not finite");
    }
    for (const float d : divisor.values) scales.push_back(t.scale / finish.unit / d);
    // The zeros are subtracted from whole sums.
    const int64_t largest_sum = plan.sums(int64_t{t.height} * t.width, t.bits, 0, {1, false}, 0, {});
    finish.check(plan, {height, width, t.channels, source, false, largest_sum,
                        largest_magnitude(scales.data(), static_cast<int64_t>(scales.size()))});
    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = t.channels;
    e.a_bits = t.bits;
    return e;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    const ImageView<uint8_t> from = c.codes(source);
    const int64_t width = columns.shape[0];
    Output whole = finish.output(c);
    whole.one_scale = true;
    for_rows(c, rows.shape[0], t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      thread_local Scratch memory;
      int32_t* acc;
      memory.lay_out(scratch_array(acc, t.channels));
      Output output = whole;
      Window w{};
      w.a = from.row(i, 0);
      w.row = from.strides.row;
      w.pixel = from.strides.pixel;
      w.channels = t.channels;
      w.y_step = w.x_step = 1;
      for (int64_t y = begin; y < end; ++y) {
        w.y0 = rows[2 * y];
        w.y1 = rows[2 * y + 1];
        for (int64_t x = 0; x < width; ++x) {
          w.x0 = columns[2 * x];
          w.x1 = columns[2 * x + 1];
          c.ops.window_sum(w, acc);
          const int32_t zeros = (w.y1 - w.y0) * (w.x1 - w.x0) * t.zero;
          if (zeros != 0) {
            for (int64_t n = 0; n < t.channels; ++n) acc[n] -= zeros;
          }
          output.scale = &scales[static_cast<size_t>(y * width + x)];
          output.store(i, y, x, 1, 0, t.channels, acc, t.channels);
        }
      }
    });
  }
};

}  // namespace

std::unique_ptr<Step> make_window_mean() { return std::make_unique<WindowMeanStep>(); }

}  // namespace ulp
