#include "finish_spec.h"

#include <algorithm>
#include <cmath>

#include "../ops/one_step.h"
#include "step.h"

namespace ulp {
namespace {

bool all_finite(const Floats& values, float factor) {
  return std::all_of(values.values.begin(), values.values.end(), [factor](float v) { return std::isfinite(v * factor); });
}

void check_thresholds(const Checks& plan, const Thresholds& t, int64_t channels, int64_t levels) {
  if (t.values.shape != std::array<int64_t, 2>{channels, levels} || t.flip.size() != channels)
    plan.refuse(": expected " + std::to_string(channels) + " x " + std::to_string(levels) + " thresholds");
  for (int64_t c = 0; c < channels; ++c) {
    const auto begin = t.values.values.begin() + c * levels;
    if (!std::is_sorted(begin, begin + levels)) plan.refuse(": the thresholds of channel " + std::to_string(c) + " do not ascend");
  }
}

}  // namespace

void FinishSpec::check_after(const Checks& plan, const Shape& shape, const Tensor& target, AfterSpec& a) const {
  if (!target.is_codes) plan.refuse(": what comes after a target needs one of codes");
  check_range("after bits", a.bits, 1, 8);
  check_range("after zero", a.zero, 0, (1 << a.bits) - 1);
  if (!positive_normal(a.scale) || !positive_normal(unit / a.scale)) plan.refuse(": the scale of what comes after is no normal float32");
  a.index_bits = a.bits;
  if (a.other) {
    const Tensor& other = plan.readable(*a.other, shape.channels);
    if (!other.is_codes) plan.refuse(": the operand of what comes after must hold codes");
    if (other.height != shape.height || other.width != shape.width) plan.refuse(": the operand of what comes after has another shape");
    for (const Slice& t : targets) {
      if (t.tensor == a.other->tensor) plan.refuse(": a tensor that is read cannot be a target");
    }
    a.index_bits += other.bits;
  }
  if (a.index_bits > 8) plan.refuse(": codes of " + std::to_string(a.index_bits) + " bits together, at most 8 have a table");
  if (a.table.size() != int64_t{1} << a.index_bits) {
    plan.refuse(": a table of " + std::to_string(a.table.size()) + " entries, expected " + std::to_string(1 << a.index_bits));
  }
  for (const uint8_t code : a.table.values) {
    if (code > target.max_code()) plan.refuse(": a code of a table is beyond the target's " + std::to_string(target.max_code()));
  }
  a.all = a.table.values;
  a.all.resize(256);
}

void FinishSpec::check(const Checks& plan, const Shape& shape) {
  if (shape.has_scale) {
    if (scale.size() != shape.channels || bias.size() != shape.channels)
      plan.refuse(": scale and bias must have " + std::to_string(shape.channels) + " values");
    if (!start.empty() && start.size() != shape.channels) plan.refuse(": start must have " + std::to_string(shape.channels) + " values");
  } else {
    if (!scale.empty() || !bias.empty()) plan.refuse(" takes no scale and no bias");
    if (!start.empty()) plan.refuse(" takes no start");
  }
  if (!positive_normal(unit)) plan.refuse(": unit must be a positive normal float32");
  // With all products finite no sum of them is a NaN.
  if (!all_finite(scale, 2147483648.0f) || !all_finite(bias, 1.0f)) plan.refuse(": bias and 2^31 * scale must be finite in float32");
  if (!(low <= high)) plan.refuse(": low must not be above high");
  if (targets.empty() || targets.size() > kMaxTargets)
    plan.refuse(": expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
  if (thresholds.size() != targets.size()) {
    plan.refuse(": finish['thresholds'] has " + std::to_string(thresholds.size()) + " entries, expected one for each of the " +
                std::to_string(targets.size()) + " targets");
  }
  if (residual) {
    const Tensor& r = plan.readable(*residual, shape.channels);
    if (!r.is_codes) plan.refuse(": the residual must hold codes");
    if (!std::isfinite(r.scale / unit * 255.0f)) plan.refuse(": 255 * the residual's scale / unit is not finite");
    if (r.height != shape.height || r.width != shape.width) plan.refuse(": the residual has another shape");
  }
  if (!after.empty() && after.size() != targets.size()) plan.refuse(": finish['after'] must have one entry for each target");
  for (size_t i = 0; i < targets.size(); ++i) {
    const Tensor& t = plan.tensor(targets[i].tensor);
    AfterSpec* then = after.empty() || !after[i] ? nullptr : &*after[i];
    if (then) check_after(plan, shape, t, *then);
    if (targets[i].tensor == shape.source || (residual && targets[i].tensor == residual->tensor))
      plan.refuse(": a tensor that is read cannot be a target");
    if (!t.is_codes && unit != 1.0f) plan.refuse(": a target of floats needs the unit 1");
    if (t.is_codes && !then && !positive_normal(unit / t.scale)) plan.refuse(": unit / a target's scale is no normal float32");
    if (!thresholds[i]) continue;
    if (!t.is_codes) plan.refuse(": thresholds need a target of codes");
    if (residual) plan.refuse(": thresholds do not go with a residual");
    check_thresholds(plan, *thresholds[i], shape.channels, then ? (1 << then->bits) - 1 : t.max_code());
    thresholds[i]->flip_masks.clear();
    for (const uint8_t flip : thresholds[i]->flip.values) thresholds[i]->flip_masks.push_back(flip ? -1 : 0);
  }
  plan.writable(targets, shape.channels, shape.height, shape.width);
  find_fits(plan, shape);
  find_step(plan, shape);
}

// How codes of a target are made.
Target FinishSpec::quantizer(const Tensor& tensor, size_t i) const {
  Target target{};
  const AfterSpec* a = after.empty() || !after[i] ? nullptr : &*after[i];
  target.inverse = unit / (a ? a->scale : tensor.scale);
  target.zero = a ? a->zero : tensor.zero;
  target.max_code = a ? (1 << a->bits) - 1 : tensor.max_code();
  target.fits_int32 = fits_int32[i];
  return target;
}

void FinishSpec::find_step(const Checks& plan, const Shape& shape) {
  step.clear();
  step_offset.clear();
  if (!shape.has_scale || residual || targets.size() != 1 || thresholds[0] || !fits_int32[0]) return;
  const Target target = quantizer(plan.tensor(targets[0].tensor), 0);
  const OneStep search(target, low, high, shape.largest_sum);
  if (!search.is_possible()) return;
  step.resize(static_cast<size_t>(shape.channels));
  step_offset.resize(static_cast<size_t>(shape.channels));
  for (size_t c = 0; c < step.size(); ++c) {
    if (search.find(scale.values[c], bias.values[c], step[c], step_offset[c])) continue;
    step.clear();
    step_offset.clear();
    return;
  }
}

void FinishSpec::find_fits(const Checks& plan, const Shape& shape) {
  const float other = residual ? plan.tensor(residual->tensor).scale / unit * 255.0f : 0.0f;
  const ValueReach reach{shape.has_scale ? largest_magnitude(scale.values.data(), scale.size()) : shape.own_scale,
                         largest_magnitude(bias.values.data(), bias.size()) + std::abs(other), static_cast<float>(shape.largest_sum)};
  fits_int32.clear();
  for (size_t i = 0; i < targets.size(); ++i) {
    const Tensor& t = plan.tensor(targets[i].tensor);
    const float target_scale = after.empty() || !after[i] ? t.scale : after[i]->scale;
    fits_int32.push_back(t.is_codes && reach.fits_int32(unit / target_scale));
  }
}

std::vector<int> FinishSpec::reads(int source) const {
  std::vector<int> all{source};
  if (residual) all.push_back(residual->tensor);
  for (const std::optional<AfterSpec>& a : after) {
    if (a && a->other) all.push_back(a->other->tensor);
  }
  return all;
}

Output FinishSpec::output(const Context& c) const {
  Output o;
  o.ops = &c.ops;
  o.scale = scale.values.data();
  o.bias = bias.empty() ? nullptr : bias.values.data();
  o.start = start.empty() ? nullptr : start.values.data();
  o.low = low;
  o.high = high;
  if (residual) {
    const Tensor& t = c.tensor(residual->tensor);
    const ImageView<uint8_t> codes = c.codes(*residual);
    o.residual = codes.data;
    o.residual_place = codes.strides;
    o.residual_scale = t.scale / unit;
    o.residual_zero = t.zero;
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const Tensor& t = c.tensor(targets[i].tensor);
    Target& target = o.targets[i];
    if (t.is_codes) {
      const ImageView<uint8_t> codes = c.codes(targets[i]);
      target = quantizer(t, i);
      target.codes = codes.data;
      if (!after.empty() && after[i]) {
        const AfterSpec& a = *after[i];
        After& then = o.after[i];
        then.table = a.all.data();
        then.bits = a.bits;
        then.index_bits = a.index_bits;
        if (a.other) {
          const ImageView<uint8_t> other = c.codes(*a.other);
          then.other = other.data;
          then.other_place = other.strides;
        }
        o.has_after = true;
      }
      if (thresholds[i]) {
        target.thresholds = thresholds[i]->values.values.data();
        target.flip = thresholds[i]->flip_masks.data();
      }
      o.places[i] = codes.strides;
    } else {
      const ImageView<float> floats = c.floats(targets[i]);
      target.floats = floats.data;
      o.places[i] = floats.strides;
    }
  }
  o.target_count = static_cast<int>(targets.size());
  if (!step.empty()) {
    o.step = step.data();
    o.step_offset = step_offset.data();
    o.step_zero = o.targets[0].zero - OneStep::folded_zero(o.targets[0].zero);
  }
  return o;
}

}  // namespace ulp
