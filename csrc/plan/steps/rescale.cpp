// An image's codes as values, with an epilogue: another quantizer, a clamp, a shortcut.
//
//     v = float32(u - zero) * (scale / unit)
//
// source: H x W x C codes; the result is H x W x C.
#include <cmath>

#include "../finish_spec.h"
#include "../step.h"

namespace ulp {
namespace {

struct RescaleStep final : Step {
  int source = -1;
  FinishSpec finish;

  float scale = 0;

  FieldList fields() override { return {{"source", &source}, {"finish", &finish}}; }

  std::string method() const override { return "elementwise"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    scale = t.scale / finish.unit;
    finish.check(plan, {t.height, t.width, t.channels, source, false, 255, scale});
    if (!std::isfinite(scale * 255.0f)) plan.refuse(": 255 * scale / unit is not finite");
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
    Output output = finish.output(c);
    output.scale = &scale;
    output.one_scale = true;
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      constexpr int64_t kChannels = 128;
      constexpr int64_t kPixels = kSumBytes / 4 / kChannels;
      alignas(64) int32_t acc[kSumBytes / 4];
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t n0 = 0; n0 < t.channels; n0 += kChannels) {
          const int64_t channels = std::min<int64_t>(kChannels, t.channels - n0);
          for (int64_t x = 0; x < t.width; x += kPixels) {
            const int64_t pixels = std::min<int64_t>(kPixels, t.width - x);
            const uint8_t* codes = from.pixel(i, y, x) + n0;
            for (int64_t p = 0; p < pixels; ++p) {
              for (int64_t n = 0; n < channels; ++n) acc[p * kChannels + n] = codes[p * from.strides.pixel + n] - t.zero;
            }
            output.store(i, y, x, pixels, n0, channels, acc, kChannels);
          }
        }
      }
    });
  }
};

}  // namespace

std::unique_ptr<Step> make_rescale() { return std::make_unique<RescaleStep>(); }

}  // namespace ulp
