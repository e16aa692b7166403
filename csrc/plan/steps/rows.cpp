// A function of rows, the channels of a pixel, with a sum before it and quantizers behind it:
//
//     v = operand 0 + operand 1 + ...; the function of each group of `channels` channels (ops/rows.h); then the targets
//
// operands: 1 to 4 slices of groups x channels channels, or of `channels`, which count for all groups; codes or floats; H x W, or 1 x 1:
// the same for all pixels; the first is H x W and has all channels. gamma, beta: `channels` values, of normalizations. divide: as for
// combine. integers: by fixed-point numbers (ops/integer_rows.h).
#include <array>
#include <atomic>
#include <cmath>

#include "../../gemm/scratch.h"
#include "../../ops/integer_rows.h"
#include "../row_work.h"

namespace ulp {
namespace {

struct RowsStep final : Step {
  std::vector<Slice> operands;
  int channels = 0, groups = 1;
  std::string name;
  Floats gamma, beta;
  float epsilon = 0;
  std::vector<Slice> targets;
  bool divide = false;
  bool integers = false;

  RowFunction function = RowFunction::identity;

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"operands", &operands},
            {"channels", &channels},
            {"groups", &groups},
            {"function", &name},
            {"gamma", &gamma, optional},
            {"beta", &beta, optional},
            {"epsilon", &epsilon, optional},
            {"targets", &targets},
            {"divide", &divide},
            {"integers", &integers, optional}};
  }

  std::string method() const override { return integers ? "integer_" + name : name; }

  Effects check(const Checks& plan) override {
    check_range("channels", channels, 1, 1 << 24);
    check_range("groups", groups, 1, (1 << 24) / channels);
    if (operands.empty() || operands.size() > kMaxOperands)
      plan.refuse(": expected 1.." + std::to_string(kMaxOperands) + " operands, got " + std::to_string(operands.size()));
    if (targets.empty() || targets.size() > kMaxTargets)
      plan.refuse(": expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
    check_function(plan);
    const int all = channels * groups;
    const Tensor& first = plan.readable(operands[0], all);
    Effects e;
    for (const Slice& s : operands) {
      const Tensor& t = plan.readable(s, counts_for_all(plan.tensor(s.tensor)) ? channels : all);
      const bool one_pixel = t.height == 1 && t.width == 1;
      if (!one_pixel && (t.height != first.height || t.width != first.width)) {
        plan.refuse(": operands of " + shape_text(first.height, first.width, all) + " and " + shape_text(t.height, t.width, t.channels) +
                    " do not fit");
      }
      for (const Slice& target : targets) {
        if (target.tensor == s.tensor) plan.refuse(": a tensor that is read cannot be a target");
      }
      e.reads.push_back(s.tensor);
      e.a_bits = std::max(e.a_bits, t.bits);
    }
    plan.writable(targets, all, first.height, first.width);
    e.writes = targets;
    e.channels = all;
    return e;
  }

  void check_function(const Checks& plan) {
    function = row_function(plan, name);
    if (integers && !in_integers(function)) plan.refuse(": '" + name + "' has no form in integers");
    const bool norm = function == RowFunction::layer_norm || function == RowFunction::rms_norm;
    if (!norm && !(gamma.empty() && beta.empty())) plan.refuse(": gamma and beta go with normalizations");
    if (norm && !(epsilon >= 0 && std::isfinite(epsilon))) plan.refuse(": epsilon must be finite and not negative");
    for (const Floats* values : {&gamma, &beta}) {
      if (values->empty()) continue;
      if (values->size() != channels) plan.refuse(": gamma and beta have one value per channel");
      const auto finite = [](float v) { return std::isfinite(v); };
      if (!std::all_of(values->values.begin(), values->values.end(), finite)) plan.refuse(": gamma and beta must be finite");
    }
  }

  bool counts_for_all(const Tensor& t) const { return groups > 1 && t.channels == channels; }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(operands[0].tensor);
    float divisors[kMaxTargets] = {};
    for (size_t j = 0; j < targets.size(); ++j) divisors[j] = c.tensor(targets[j].tensor).scale;
    std::atomic<bool> numbers{true};
    for_pixels(c, t.height, t.width, t.elements(), [&](int64_t i, int64_t y, int64_t x, int64_t end) {
      thread_local Scratch memory;
      Target to[kMaxTargets] = {};
      RowWork w{};
      memory.lay_out(scratch_array(w.buffer, round_up(channels, 16)));
      for (size_t j = 0; j < operands.size(); ++j) {
        w.operands[j] = operand_at(c, operands[j], i, y, x);
        w.group_step[j] = counts_for_all(c.tensor(operands[j].tensor)) ? 0 : channels;
      }
      for (size_t j = 0; j < targets.size(); ++j) to[j] = target_at(c, targets[j], i, y, x);
      w.operand_count = static_cast<int>(operands.size());
      w.rows = end - x;
      w.groups = groups;
      w.channels = channels;
      w.function = function;
      w.gamma = gamma.empty() ? nullptr : gamma.values.data();
      w.beta = beta.empty() ? nullptr : beta.values.data();
      w.epsilon = epsilon;
      w.targets = to;
      w.divisors = divide ? divisors : nullptr;
      w.target_count = static_cast<int>(targets.size());
      if (!(integers ? integer_rows(w) : c.row_ops.rows(w))) numbers.store(false);
    });
    if (!numbers.load()) throw NotFinite(integers ? "a value that becomes an integer is a NaN" : "a value that is quantized is a NaN");
  }
};

}  // namespace

std::unique_ptr<Step> make_rows() { return std::make_unique<RowsStep>(); }

}  // namespace ulp
