// Sums and products of images, where no step that makes one of them can take in the others.
//
//     v = operand 0 + operand 1 + ...      or with `multiply` their product; then min(max(v, low), high) and the targets
//
// operands: 1 to 4 slices of `channels` channels, codes or floats, H x W, or 1 x 1: the same for all pixels; the first is H x W. Values are
// float32, each operation is rounded. divide: codes by rint(v / scale), as ONNX defines it, not rint(v * (1 / scale)).
//
// Of two operands whose codes have at most 8 bits together, all results in codes are looked up.
#include <algorithm>
#include <array>
#include <atomic>
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

  std::vector<std::array<uint8_t, 256>> tables{};  // one per target, by code 0 | code 1 << bits of code 0; empty: values are computed
  int bits[2] = {};                                // of operand 0, and of both

  FieldList fields() override {
    return {{"operands", &operands}, {"channels", &channels}, {"multiply", &multiply}, {"low", &low},
            {"high", &high},         {"targets", &targets},   {"divide", &divide}};
  }

  std::string method() const override { return tables.empty() ? "elementwise" : "table"; }

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
    make_tables(plan);
    e.writes = targets;
    e.channels = channels;
    return e;
  }

  void make_tables(const Checks& plan) {
    tables.clear();
    const auto is_codes = [&plan](const Slice& s) { return plan.tensor(s.tensor).is_codes; };
    if (operands.size() != 2 || !std::all_of(operands.begin(), operands.end(), is_codes)) return;
    if (!std::all_of(targets.begin(), targets.end(), is_codes)) return;
    const Tensor& a = plan.tensor(operands[0].tensor);
    const Tensor& b = plan.tensor(operands[1].tensor);
    if (a.bits + b.bits > 8) return;
    bits[0] = a.bits;
    bits[1] = a.bits + b.bits;
    std::array<uint8_t, 256> codes[2] = {};
    for (int i = 0; i < 1 << bits[1]; ++i) {
      codes[0][static_cast<size_t>(i)] = static_cast<uint8_t>(i & a.max_code());
      codes[1][static_cast<size_t>(i)] = static_cast<uint8_t>(i >> a.bits);
    }
    for (const Slice& s : targets) {
      const Tensor& t = plan.tensor(s.tensor);
      Target to = target_of(t);
      to.codes = tables.emplace_back().data();
      Combination f{};
      f.operands[0] = {codes[0].data(), nullptr, 0, a.scale, a.zero};
      f.operands[1] = {codes[1].data(), nullptr, 0, b.scale, b.zero};
      f.operand_count = 2;
      f.multiply = multiply;
      f.pixels = 1;
      f.channels = int64_t{1} << bits[1];
      f.low = low;
      f.high = high;
      f.targets = &to;
      f.divisors = divide ? &t.scale : nullptr;
      f.target_count = 1;
      ops(Isa::baseline).combine(f);
    }
  }

  void run(const Context& c) const override {
    if (!tables.empty()) return look_up(c);
    const Tensor& t = c.tensor(operands[0].tensor);
    float divisors[kMaxTargets] = {};
    for (size_t j = 0; j < targets.size(); ++j) divisors[j] = c.tensor(targets[j].tensor).scale;
    const bool dense = is_dense(c);
    const bool quantizes = std::any_of(targets.begin(), targets.end(), [&](const Slice& s) { return c.tensor(s.tensor).is_codes; });
    std::atomic<bool> finite{true};
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        for (const Slice& s : operands) {
          if (quantizes && !is_finite(c, s, i, y)) finite.store(false);
        }
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
    if (!finite.load()) throw NotFinite("a value that is quantized is a NaN or an infinity");
  }

  // Of codes always; of floats an infinity would give a NaN with another.
  bool is_finite(const Context& c, const Slice& s, int64_t i, int64_t y) const {
    const Tensor& t = c.tensor(s.tensor);
    if (t.is_codes) return true;
    const ImageView<float> floats = c.floats(s);
    const bool one_pixel = t.height == 1 && t.width == 1;
    const float* pixel = floats.row(i, one_pixel ? 0 : y);
    float differences = 0;  // x - x is a NaN where x is not finite
    for (int64_t x = 0; x < t.width; ++x, pixel += floats.strides.pixel) {
      for (int64_t n = 0; n < channels; ++n) differences += pixel[n] - pixel[n];
    }
    return differences == 0;
  }

  void look_up(const Context& c) const {
    const Tensor& t = c.tensor(operands[0].tensor);
    const bool dense = is_dense(c);
    const int64_t count = dense ? int64_t{t.width} * channels : channels;
    for_rows(c, t.height, t.elements(), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        const Operand a = operand(c, operands[0], i, y);
        const Operand b = operand(c, operands[1], i, y);
        for (size_t j = 0; j < targets.size(); ++j) {
          const Target to = target(c, targets[j], i, y);
          for (int64_t x = 0; x < (dense ? 1 : t.width); ++x) {
            c.ops.lookup_pairs(a.codes + x * a.pixel, b.codes + x * b.pixel, count, tables[j].data(), bits[0], bits[1],
                               to.codes + x * to.pixel);
          }
        }
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

  // What turns values into the tensor's codes.
  static Target target_of(const Tensor& t) {
    Target to{};
    to.inverse = 1.0f / t.scale;
    to.zero = t.zero;
    to.max_code = t.max_code();
    return to;
  }

  static Target target(const Context& c, const Slice& s, int64_t i, int64_t y) {
    const Tensor& t = c.tensor(s.tensor);
    Target to = t.is_codes ? target_of(t) : Target{};
    if (t.is_codes) {
      const ImageView<uint8_t> codes = c.codes(s);
      to.codes = codes.row(i, y);
      to.pixel = codes.strides.pixel;
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
