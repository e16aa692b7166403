// How a plan is built.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "arena.h"

namespace ulp {

Port::Port(const Tensor& t, bool nhwc) : is_codes(t.is_codes), shape{t.channels, t.height, t.width} {
  if (nhwc) shape = {t.height, t.width, t.channels};
}

void Plan::check_open() const {
  if (finalized_) refuse("the plan is finalized");
}

int Plan::add_tensor(Tensor tensor) {
  tensors_.push_back(std::move(tensor));
  return static_cast<int>(tensors_.size()) - 1;
}

int Plan::codes(int64_t height, int64_t width, int64_t channels, int bits, int zero, double scale) {
  check_open();
  check_sides(height, width, channels);
  check_range("bits", bits, kMinBits, kMaxBits);
  if (zero < 0 || zero >= 1 << bits)
    refuse("zero = " + std::to_string(zero) + " is outside the codes 0.." + std::to_string((1 << bits) - 1));
  const float s = static_cast<float>(scale);
  if (!(positive_normal(s) && std::isnormal(1.0f / s) && std::isfinite(s * 255.0f)))
    refuse("scale = " + std::to_string(scale) + ": expected a positive normal float32 with a normal inverse");
  return add_tensor({static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels), true, bits, zero, s});
}

int Plan::floats(int64_t height, int64_t width, int64_t channels) {
  check_open();
  check_sides(height, width, channels);
  return add_tensor({static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels), false, 0, 0, 1.0f});
}

void Plan::add(const StepKind& kind, std::unique_ptr<Step> step) {
  check_open();
  Effects e = step->check(Checks(kind.shown, tensors_, input_ports_.size(), output_ports_.size()));
  if (e.input && steps_.size() > input_ports_.size()) refuse("inputs come before all other steps");
  make_room(input_ports_, 1);
  make_room(output_ports_, 1);
  for (const Slice& s : e.writes) tensors_[static_cast<size_t>(s.tensor)].written.make_room(e.writes.size());
  steps_.push_back({&kind, std::move(step), std::move(e)});
  // Nothing can fail from here on.
  take_effect(steps_.back());
}

void Plan::take_effect(PlannedStep& added) {
  Effects& e = added.effects;
  if (e.input) input_ports_.push_back(*std::move(e.input));
  if (e.output) {
    added.port = static_cast<int>(output_ports_.size());
    output_ports_.push_back(*std::move(e.output));
  }
  for (const Slice& s : e.writes) {
    tensors_[static_cast<size_t>(s.tensor)].written.add({s.channel, s.channel + e.channels});
  }
  if (!e.reads.empty()) {
    Tensor& source = tensors_[static_cast<size_t>(e.reads[0])];
    Border& b = source.border;
    b = {std::max(b.top, e.border.top), std::max(b.left, e.border.left), std::max(b.bottom, e.border.bottom),
         std::max(b.right, e.border.right)};
    if (e.layout != PixelLayout::any) source.layout = e.layout;
  }
  whole_batch_ |= e.whole_batch;
  weight_bytes_ += e.weight_bytes;
  macs_ += e.macs;
}

void Plan::finalize(int64_t group, bool throughput, bool tune, const std::function<void()>& tuned) {
  check_open();
  if (input_ports_.empty()) refuse("the plan has no input");
  if (output_ports_.empty()) refuse("the plan has no output");
  check_range("group", group, 1, 1 << 16);
  arena_bytes_ = lay_out(tensors_, steps_, group);
  group_ = group;
  throughput_ = throughput;
  if (tune) {
    tune_steps(tuned);
    arena_bytes_ = lay_out(tensors_, steps_, group);  // without the scratch of ways that lost
  }
  finalized_ = true;
}

}  // namespace ulp
