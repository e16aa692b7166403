// Sums and products of images, where no step that makes one of them can take in the others.
//
//     v = operand 0 + operand 1 + ...      or with `multiply` their product; then min(max(v, low), high) and the targets
//
// operands: 1 to 4 slices of `channels` channels, codes or floats, H x W, or 1 x 1: the same for all pixels; the first is H x W. Values are
// float32, each operation is rounded. divide: codes by rint(v / scale), as ONNX defines it, not rint(v * (1 / scale)).
#include <cmath>

#include "../../ops/output.h"
#include "../step.h"

namespace ulp {
namespace {

struct CombineStep final : Step {
  std::vector<Slice> operands;
  int channels = 0;
  bool multiply = false;
  float low = 0, high = 0;
  std::vector<Slice> targets;
  bool divide = false;

  FieldList fields() override {
    return {{"operands", &operands}, {"channels", &channels}, {"multiply", &multiply}, {"low", &low},
            {"high", &high},         {"targets", &targets},   {"divide", &divide}};
  }

  std::string method() const override { return "elementwise"; }

  Effects check(const Checks& plan) override {
    if (operands.empty() || operands.size() > kMaxOperands)
      plan.refuse(": expected 1.." + std::to_string(kMaxOperands) + " operands, got " + std::to_string(operands.size()));
    if (targets.empty() || targets.size() > kMaxTargets)
      plan.refuse(": expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
    if (!(low <= high)) plan.refuse(": low must not be above high");
    const Tensor& first = plan.readable(operands[0], channels);
    Effects e;
    for (const Slice& s : operands) {
      const Tensor& t = plan.readable(s, channels);
      const bool one_pixel = t.height == 1 && t.width == 1;
      if (!one_pixel && (t.height != first.height || t.width != first.width)) {
        plan.refuse(": operands of " + shape_text(first.height, first.width, channels) + " and " + shape_text(t.height, t.width, channels) +
                    " do not fit");
      }
      for (const Slice& target : targets) {
        if (target.tensor == s.tensor) plan.refuse(": a tensor that is read cannot be a target");
      }
      e.reads.push_back(s.tensor);
      e.a_bits = std::max(e.a_bits, t.bits);
    }
    plan.writable(targets, channels, first.height, first.width);
    e.writes = targets;
    e.channels = channels;
    return e;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(operands[0].tensor);
    float divisors[kMaxTargets] = {};
    for (size_t j = 0; j < targets.size(); ++j) divisors[j] = c.tensor(targets[j].tensor).scale;
    const bool dense = is_dense(c);
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        Target to[kMaxTargets] = {};
        Combination f{};
        for (size_t j = 0; j < operands.size(); ++j) f.operands[j] = operand(c, operands[j], i, y);
        for (size_t j = 0; j < targets.size(); ++j) to[j] = target(c, targets[j], i, y);
        f.operand_count = static_cast<int>(operands.size());
        f.multiply = multiply;
        f.pixels = dense ? 1 : t.width;
        f.channels = dense ? int64_t{t.width} * channels : channels;
        f.low = low;
        f.high = high;
        f.targets = to;
        f.divisors = divide ? divisors : nullptr;
        f.target_count = static_cast<int>(targets.size());
        c.ops.combine(f);
      }
    });
  }

  // Whether rows have no gaps anywhere, so that one is like a pixel of many channels.
  bool is_dense(const Context& c) const {
    const Tensor& first = c.tensor(operands[0].tensor);
    const auto gapless = [&](const Slice& s) {
      const Tensor& t = c.tensor(s.tensor);
      return t.width == first.width && t.strides.pixel == channels * t.element_bytes();
    };
    return std::all_of(operands.begin(), operands.end(), gapless) && std::all_of(targets.begin(), targets.end(), gapless);
  }

  Operand operand(const Context& c, const Slice& s, int64_t i, int64_t y) const {
    const Tensor& t = c.tensor(s.tensor);
    const bool one_pixel = t.height == 1 && t.width == 1;
    Operand o{};
    if (t.is_codes) {
      const ImageView<uint8_t> codes = c.codes(s);
      o.codes = codes.row(i, one_pixel ? 0 : y);
      o.pixel = one_pixel ? 0 : codes.strides.pixel;
      o.scale = t.scale;
      o.zero = t.zero;
    } else {
      const ImageView<float> floats = c.floats(s);
      o.floats = floats.row(i, one_pixel ? 0 : y);
      o.pixel = one_pixel ? 0 : floats.strides.pixel;
    }
    return o;
  }

  static Target target(const Context& c, const Slice& s, int64_t i, int64_t y) {
    const Tensor& t = c.tensor(s.tensor);
    Target to{};
    if (t.is_codes) {
      const ImageView<uint8_t> codes = c.codes(s);
      to.codes = codes.row(i, y);
      to.pixel = codes.strides.pixel;
      to.inverse = 1.0f / t.scale;
      to.zero = t.zero;
      to.max_code = t.max_code();
    } else {
      const ImageView<float> floats = c.floats(s);
      to.floats = floats.row(i, y);
      to.pixel = floats.strides.pixel;
    }
    return to;
  }
};

}  // namespace

std::unique_ptr<Step> make_combine() { return std::make_unique<CombineStep>(); }

}  // namespace ulp
