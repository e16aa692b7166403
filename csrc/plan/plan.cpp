#include "plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "steps.h"

namespace ulp {
namespace {

// An image of more elements than this is a mistake, and products of sizes stay far below 2^63.
constexpr int64_t kMaxElements = int64_t{1} << 34;
constexpr int64_t kMaxSide = 1 << 24;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string shape_text(int64_t height, int64_t width, int64_t channels) {
  return std::to_string(height) + " x " + std::to_string(width) + " x " + std::to_string(channels);
}

void check_sides(int64_t height, int64_t width, int64_t channels) {
  for (const int64_t side : {height, width, channels}) {
    if (side < 1 || side > kMaxSide)
      refuse("image " + shape_text(height, width, channels) + ": each side must be in 1.." + std::to_string(kMaxSide));
  }
  if (height * width > kMaxElements / channels) refuse("image " + shape_text(height, width, channels) + " is too large");
}

// |start + sum over K of (a - a_zero)(w - w_zero)| must stay in int32.
void check_sums(const char* what, int64_t k, int a_bits, int a_zero, Encoding w, int w_zero, const std::vector<int32_t>& start) {
  const SumBound bound{magnitude({a_bits, false}, a_zero), magnitude(w, w_zero)};
  if (k > bound.max_k())
    refuse(std::string(what) + ": K = " + std::to_string(k) + " could overflow int32; it may be at most " + std::to_string(bound.max_k()));
  const int64_t room = bound.room(k);
  if (!std::all_of(start.begin(), start.end(), [room](int32_t s) { return std::abs(int64_t{s}) <= room; }))
    refuse(std::string(what) + ": with K = " + std::to_string(k) + " start may be at most " + std::to_string(room) + " in size");
}

int side(const char* what, int value, int lowest, int highest) {
  if (value < lowest || value > highest) {
    refuse(std::string(what) + " = " + std::to_string(value) + " is outside " + std::to_string(lowest) + ".." + std::to_string(highest));
  }
  return value;
}

ConvShape conv_shape(const char* what, const Tensor& t, int64_t channels, const int (&kernel)[2], const int (&stride)[2],
                     const int (&padding)[4], const int (&dilation)[2]) {
  constexpr int kMost = 4096;
  ConvShape s{};
  s.height = t.height;
  s.width = t.width;
  s.channels = static_cast<int>(channels);
  s.kernel_y = side("kernel height", kernel[0], 1, kMost);
  s.kernel_x = side("kernel width", kernel[1], 1, kMost);
  s.stride_y = side("stride", stride[0], 1, kMost);
  s.stride_x = side("stride", stride[1], 1, kMost);
  for (const int p : padding) side("padding", p, 0, kMost);
  s.pad_top = padding[0];
  s.pad_left = padding[1];
  s.dilation_y = side("dilation", dilation[0], 1, kMost);
  s.dilation_x = side("dilation", dilation[1], 1, kMost);
  const int64_t room_y = int64_t{t.height} + padding[0] + padding[2] - int64_t{s.dilation_y} * (s.kernel_y - 1) - 1;
  const int64_t room_x = int64_t{t.width} + padding[1] + padding[3] - int64_t{s.dilation_x} * (s.kernel_x - 1) - 1;
  if (room_y < 0 || room_x < 0) refuse(std::string(what) + ": the kernel is larger than the padded image");
  s.out_height = static_cast<int>(room_y / s.stride_y + 1);
  s.out_width = static_cast<int>(room_x / s.stride_x + 1);
  return s;
}

// Begin and end of each window must lie in the image and hold something.
void check_windows(const char* what, const std::vector<int32_t>& edges, int64_t size) {
  if (edges.empty() || edges.size() % 2) refuse(std::string(what) + ": expected pairs of begin and end");
  for (size_t i = 0; i < edges.size(); i += 2) {
    if (edges[i] < 0 || edges[i] >= edges[i + 1] || edges[i + 1] > size) {
      refuse(std::string(what) + " " + std::to_string(edges[i]) + ".." + std::to_string(edges[i + 1]) + " is empty or outside 0.." +
             std::to_string(size));
    }
  }
}

bool positive_normal(float x) { return x > 0 && std::isnormal(x); }

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

}  // namespace

Plan::Plan() = default;
Plan::~Plan() = default;

const Tensor& Plan::tensor(int id, const char* what) const {
  if (finalized_) refuse("the plan is finalized");
  if (id < 0 || static_cast<size_t>(id) >= tensors_.size()) {
    refuse(std::string(what) + ": there is no tensor " + std::to_string(id) + "; the plan has " + std::to_string(tensors_.size()));
  }
  return tensors_[static_cast<size_t>(id)];
}

const Tensor& Plan::codes_of(int id, const char* what) const {
  const Tensor& t = tensor(id, what);
  if (!t.is_codes) refuse(std::string(what) + ": tensor " + std::to_string(id) + " holds floats, not codes");
  return t;
}

// A tensor whose channels from slice.channel on have been written.
const Tensor& Plan::readable(Slice slice, int64_t channels, const char* what) const {
  const Tensor& t = tensor(slice.tensor, what);
  if (slice.channel < 0 || channels < 1 || channels > t.channels - slice.channel) {
    refuse(std::string(what) + ": " + std::to_string(channels) + " channels from " + std::to_string(slice.channel) +
           " on are not within the " + std::to_string(t.channels) + " of tensor " + std::to_string(slice.tensor));
  }
  for (int64_t c = slice.channel; c < slice.channel + channels; ++c) {
    if (!t.written[static_cast<size_t>(c)]) {
      refuse(std::string(what) + ": no step has written channel " + std::to_string(c) + " of tensor " + std::to_string(slice.tensor));
    }
  }
  return t;
}

void Plan::check_write(const std::vector<Slice>& slices, int64_t channels, int64_t height, int64_t width, const char* what) const {
  const auto twice = [what](int64_t channel, int id) {
    refuse(std::string(what) + ": channel " + std::to_string(channel) + " of tensor " + std::to_string(id) + " is written twice");
  };
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice slice = slices[i];
    const Tensor& t = tensor(slice.tensor, what);
    if (t.height != height || t.width != width || slice.channel < 0 || channels > t.channels - slice.channel) {
      refuse(std::string(what) + " gives " + shape_text(height, width, channels) + ", which does not fit channel " +
             std::to_string(slice.channel) + " on of tensor " + std::to_string(slice.tensor) + ", " +
             shape_text(t.height, t.width, t.channels));
    }
    for (int64_t c = slice.channel; c < slice.channel + channels; ++c) {
      if (t.written[static_cast<size_t>(c)]) twice(c, slice.tensor);
    }
    for (size_t j = 0; j < i; ++j) {
      const Slice other = slices[j];
      if (other.tensor == slice.tensor && std::abs(other.channel - slice.channel) < channels) {
        twice(std::max(other.channel, slice.channel), slice.tensor);
      }
    }
  }
}

void Plan::check_finish(const FinishSpec& f, int64_t channels, int64_t height, int64_t width, int source, bool has_scale,
                        const char* what) const {
  const size_t n = static_cast<size_t>(channels);
  if (has_scale && (f.scale.size() != n || f.bias.size() != n)) {
    refuse(std::string(what) + ": scale and bias must have " + std::to_string(channels) + " values");
  }
  if (!has_scale && !(f.scale.empty() && f.bias.empty())) refuse(std::string(what) + " takes no scale and no bias");
  if (!has_scale && !f.start.empty()) refuse(std::string(what) + " takes no start");
  if (!f.start.empty() && f.start.size() != n) refuse(std::string(what) + ": start must have " + std::to_string(channels) + " values");
  if (!positive_normal(f.unit)) refuse(std::string(what) + ": unit must be a positive normal float32");
  // With all products finite no sum of them is a NaN.
  const auto largest = [](float scale) { return std::isfinite(scale * 2147483648.0f); };
  if (!std::all_of(f.scale.begin(), f.scale.end(), largest) || !all_finite(f.bias)) {
    refuse(std::string(what) + ": bias and 2^31 * scale must be finite in float32");
  }
  if (!(f.low <= f.high)) refuse(std::string(what) + ": low must not be above high");
  if (f.targets.empty() || f.targets.size() > kMaxTargets) {
    refuse(std::string(what) + ": expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(f.targets.size()));
  }
  if (!f.thresholds.empty() && f.thresholds.size() != f.targets.size()) refuse(std::string(what) + ": thresholds go one a target");
  if (f.residual.tensor >= 0) {
    const Tensor& r = readable(f.residual, channels, what);
    if (!r.is_codes) refuse(std::string(what) + ": the residual must hold codes");
    if (!std::isfinite(r.scale / f.unit * 255.0f)) refuse(std::string(what) + ": 255 * the residual's scale / unit is not finite");
    if (r.height != height || r.width != width) refuse(std::string(what) + ": the residual has another shape");
  }
  for (size_t i = 0; i < f.targets.size(); ++i) {
    const Tensor& t = tensor(f.targets[i].tensor, what);
    if (f.residual.tensor == f.targets[i].tensor || source == f.targets[i].tensor) {
      refuse(std::string(what) + ": a tensor that is read cannot be a target");
    }
    if (!t.is_codes && f.unit != 1.0f) refuse(std::string(what) + ": a target of floats needs the unit 1");
    if (t.is_codes && !positive_normal(f.unit / t.scale)) refuse(std::string(what) + ": unit / a target's scale is no normal float32");
    if (f.thresholds.empty() || f.thresholds[i].values.empty()) continue;
    const Thresholds& th = f.thresholds[i];
    if (!t.is_codes) refuse(std::string(what) + ": thresholds need a target of codes");
    if (f.residual.tensor >= 0) refuse(std::string(what) + ": thresholds do not go with a residual");
    const size_t levels = (size_t{1} << t.bits) - 1;
    if (th.values.size() != n * levels || th.flip.size() != n) {
      refuse(std::string(what) + ": expected " + std::to_string(channels) + " x " + std::to_string(levels) + " thresholds");
    }
    for (size_t c = 0; c < n; ++c) {
      if (!std::is_sorted(th.values.begin() + static_cast<int64_t>(c * levels),
                          th.values.begin() + static_cast<int64_t>((c + 1) * levels))) {
        refuse(std::string(what) + ": the thresholds of channel " + std::to_string(c) + " do not ascend");
      }
      if (th.flip[c] != 0 && th.flip[c] != -1) refuse(std::string(what) + ": flip must be 0 or -1");
    }
  }
  check_write(f.targets, channels, height, width, what);
}

void Plan::check_pixels(int id, bool tight) const {
  const Tensor& t = tensors_[static_cast<size_t>(id)];
  if (tight ? t.padded_reader : t.tight_reader) {
    refuse("tensor " + std::to_string(id) + " is read both with and without padded channels");
  }
}

// What was checked takes effect: each of `writes` from its channel on, `channels` channels.
void Plan::add(std::unique_ptr<Step> step, std::vector<int> reads, const std::vector<Slice>& writes, int64_t channels, StepInfo info) {
  for (const Slice& s : writes) info.targets.push_back(s.tensor);
  step->reads = std::move(reads);
  step->writes = info.targets;
  steps_.reserve(steps_.size() + 1);
  infos_.push_back(std::move(info));
  steps_.push_back(std::move(step));
  for (const Slice& s : writes) {
    std::vector<bool>& written = tensors_[static_cast<size_t>(s.tensor)].written;
    std::fill_n(written.begin() + s.channel, channels, true);
  }
}

// A step that ends in an epilogue.
void Plan::add_with(std::unique_ptr<Step> step, int source, const FinishSpec& finish, int64_t channels, StepInfo info) {
  std::vector<int> reads{source};
  if (finish.residual.tensor >= 0) reads.push_back(finish.residual.tensor);
  add(std::move(step), std::move(reads), finish.targets, channels, std::move(info));
}

// `more`: rows and columns at the end that are read besides.
void Plan::need_border(int id, const ConvShape& s, int more) {
  Tensor& t = tensors_[static_cast<size_t>(id)];
  const int64_t last_y = int64_t{s.out_height - 1} * s.stride_y + int64_t{s.kernel_y - 1} * s.dilation_y;
  const int64_t last_x = int64_t{s.out_width - 1} * s.stride_x + int64_t{s.kernel_x - 1} * s.dilation_x;
  const int bottom = static_cast<int>(std::max<int64_t>(0, last_y - s.pad_top - t.height + 1)) + more;
  const int right = static_cast<int>(std::max<int64_t>(0, last_x - s.pad_left - t.width + 1)) + more;
  Border& b = t.border;
  b = {std::max(b.top, s.pad_top), std::max(b.left, s.pad_left), std::max(b.bottom, bottom), std::max(b.right, right)};
}

int Plan::codes(int64_t height, int64_t width, int64_t channels, int bits, int zero, double scale) {
  if (finalized_) refuse("the plan is finalized");
  check_sides(height, width, channels);
  if (!valid_bits(bits)) refuse("bits = " + std::to_string(bits) + " is outside 1..8");
  if (zero < 0 || zero >= 1 << bits)
    refuse("zero = " + std::to_string(zero) + " is outside the codes 0.." + std::to_string((1 << bits) - 1));
  const float s = static_cast<float>(scale);
  if (!(positive_normal(s) && std::isnormal(1.0f / s) && std::isfinite(s * 255.0f)))
    refuse("scale = " + std::to_string(scale) + ": expected a positive normal float32 with a normal inverse");
  Tensor t{static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels), true, bits, zero, s};
  t.written.assign(static_cast<size_t>(channels), false);
  tensors_.push_back(std::move(t));
  return static_cast<int>(tensors_.size()) - 1;
}

int Plan::floats(int64_t height, int64_t width, int64_t channels) {
  if (finalized_) refuse("the plan is finalized");
  check_sides(height, width, channels);
  Tensor t{static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels), false, 0, 0, 1.0f};
  t.written.assign(static_cast<size_t>(channels), false);
  tensors_.push_back(std::move(t));
  return static_cast<int>(tensors_.size()) - 1;
}

void Plan::input_floats(int64_t channels, int64_t height, int64_t width, const std::vector<int>& targets, bool divide) {
  if (finalized_) refuse("the plan is finalized");
  if (!steps_.empty()) refuse("the input must be the first step, and there is one");
  check_sides(height, width, channels);
  if (targets.empty() || targets.size() > kMaxTargets) {
    refuse("input: expected 1.." + std::to_string(kMaxTargets) + " targets, got " + std::to_string(targets.size()));
  }
  std::vector<Slice> slices;
  for (const int id : targets) {
    if (codes_of(id, "input").channels != channels) {
      refuse("input: target " + std::to_string(id) + " has " + std::to_string(tensors_[static_cast<size_t>(id)].channels) +
             " channels, expected " + std::to_string(channels));
    }
    slices.push_back({id, 0});
  }
  check_write(slices, channels, height, width, "input");
  Port port{false, {channels, height, width}};
  add(make_input_floats(channels, height, width, targets, divide), {}, slices, channels, {"input", "quantize"});
  input_port_ = std::move(port);
}

void Plan::input_codes(int id, bool nhwc) {
  if (finalized_) refuse("the plan is finalized");
  if (!steps_.empty()) refuse("the input must be the first step, and there is one");
  const Tensor& t = codes_of(id, "input");
  check_write({{id, 0}}, t.channels, t.height, t.width, "input");
  Port port{true, nhwc ? std::vector<int64_t>{t.height, t.width, t.channels} : std::vector<int64_t>{t.channels, t.height, t.width}};
  add(make_input_codes(id, nhwc), {}, {{id, 0}}, t.channels, {"input", "copy"});
  input_port_ = std::move(port);
}

void Plan::conv(Slice source, const PackedMatrix& weights, const int (&kernel)[2], const int (&stride)[2], const int (&padding)[4],
                const int (&dilation)[2], int w_zero, FinishSpec finish, const std::string& method) {
  const Tensor& t = codes_of(source.tensor, "conv");
  const BitpackedLayout& layout = weights.layout;
  const int64_t taps = int64_t{side("kernel height", kernel[0], 1, 4096)} * side("kernel width", kernel[1], 1, 4096);
  const int64_t tight_k = kernel[0] * round_up(int64_t{kernel[1]} * t.channels, 4);
  const bool tight = t.channels < 4 && dilation[1] == 1 && kernel[1] > 1 && layout.k == tight_k;
  if (layout.n < 1 || layout.k < 1 || (!tight && layout.k % (4 * taps))) {
    refuse("conv: weights of K = " + std::to_string(layout.k) + " do not fit " + std::to_string(taps) +
           " taps of a multiple of 4 channels");
  }
  const int64_t channels = tight ? t.channels : layout.k / taps;  // with pads
  const int64_t own = std::min<int64_t>(channels, int64_t{t.channels} - source.channel);
  if (tight) {
    if (source.channel != 0) refuse("conv: with weights of kernel height x padded (width x channels) all channels are read");
    if (weights.encoding.bipolar() && tight_k != taps * t.channels) refuse("conv: bipolar weights have no zero for the padded k");
  } else {
    // Up to three pads: the codes behind the slice, whose weights must then be zero; behind the tensor's last channel they hold its zero.
    if (own <= channels - 4) {
      refuse("conv: weights read " + std::to_string(channels) + " channels from " + std::to_string(source.channel) + " of " +
             std::to_string(t.channels));
    }
    if (own < channels && weights.encoding.bipolar() && (source.channel % 4 || source.channel + own < t.channels)) {
      refuse("conv: bipolar weights have no zero for what lies behind channel " + std::to_string(source.channel + own - 1));
    }
  }
  readable(source, own, "conv");
  check_pixels(source.tensor, tight);
  check_sums("conv", layout.k, t.bits, t.zero, weights.encoding, w_zero, finish.start);
  ConvShape shape = conv_shape("conv", t, channels, kernel, stride, padding, dilation);
  shape.tight = tight;
  check_sides(shape.out_height, shape.out_width, layout.n);
  check_finish(finish, layout.n, shape.out_height, shape.out_width, source.tensor, true, "conv");
  StepInfo info{"conv"};
  info.source = source.tensor;
  info.macs = shape.pixels() * taps * own * layout.n;
  info.a_bits = t.bits;
  info.w_bits = layout.bits;
  add_with(make_conv(source, {shape, weights, t.bits, t.zero, w_zero}, finish, method), source.tensor, finish, layout.n, std::move(info));
  weight_bytes_ += static_cast<int64_t>(weights.data.size());
  Tensor& read = tensors_[static_cast<size_t>(source.tensor)];
  (tight ? read.tight_reader : read.padded_reader) = true;
  // Winograd's last tiles may reach one row and column further.
  need_border(source.tensor, shape, shape.kernel_y == 3 && shape.kernel_x == 3 ? 1 : 0);
}

void Plan::depthwise(int source, std::vector<int8_t> weights, const int (&kernel)[2], const int (&stride)[2], const int (&padding)[4],
                     const int (&dilation)[2], FinishSpec finish) {
  const Tensor& t = codes_of(source, "depthwise");
  readable({source, 0}, t.channels, "depthwise");
  const ConvShape shape = conv_shape("depthwise", t, t.channels, kernel, stride, padding, dilation);
  if (static_cast<int64_t>(weights.size()) != shape.taps() * t.channels) {
    refuse("depthwise: expected " + std::to_string(shape.taps()) + " x " + std::to_string(t.channels) + " weights");
  }
  check_sums("depthwise", shape.taps(), t.bits, t.zero, {8, true}, 0, finish.start);
  check_sides(shape.out_height, shape.out_width, t.channels);
  check_finish(finish, t.channels, shape.out_height, shape.out_width, source, true, "depthwise");
  StepInfo info{"depthwise"};
  info.source = source;
  info.macs = shape.pixels() * shape.taps() * t.channels;
  info.a_bits = t.bits;
  const int reach =
      std::accumulate(weights.begin(), weights.end(), 0, [](int most, int8_t w) { return std::max(most, w < 0 ? -w - 1 : +w); });
  info.w_bits = 1;
  while (reach >> (info.w_bits - 1)) ++info.w_bits;
  add_with(make_depthwise(source, shape, t.bits, t.zero, weights, finish), source, finish, t.channels, std::move(info));
  weight_bytes_ += static_cast<int64_t>(weights.size());
  need_border(source, shape, 0);
}

void Plan::linear(int source, const PackedMatrix& weights, int w_zero, FinishSpec finish, const std::string& kernel) {
  const Tensor& t = codes_of(source, "linear");
  readable({source, 0}, t.channels, "linear");
  const BitpackedLayout& layout = weights.layout;
  const int64_t k = int64_t{t.height} * t.width * round_up(t.channels, 4);
  if (layout.n < 1 || layout.k != k) {
    refuse("linear: weights have K = " + std::to_string(layout.k) + ", the image " + shape_text(t.height, t.width, t.channels) + " takes " +
           std::to_string(k));
  }
  check_pixels(source, false);
  check_sums("linear", k, t.bits, t.zero, weights.encoding, w_zero, finish.start);
  check_finish(finish, layout.n, 1, 1, source, true, "linear");
  StepInfo info{"linear"};
  info.source = source;
  info.macs = k * layout.n;
  info.a_bits = t.bits;
  info.w_bits = layout.bits;
  add_with(make_linear(source, weights, t.bits, w_zero, finish, kernel), source, finish, layout.n, std::move(info));
  weight_bytes_ += static_cast<int64_t>(weights.data.size());
  tensors_[static_cast<size_t>(source)].padded_reader = true;
}

void Plan::max_pool(int source, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns, const int (&dilation)[2],
                    const std::vector<bool>& least) {
  const Tensor& t = codes_of(source, "max_pool");
  readable({source, 0}, t.channels, "max_pool");
  check_windows("max_pool rows", rows, t.height);
  check_windows("max_pool columns", columns, t.width);
  side("dilation", dilation[0], 1, 4096);
  side("dilation", dilation[1], 1, 4096);
  if (!least.empty() && least.size() != static_cast<size_t>(t.channels)) {
    refuse("max_pool: least must have " + std::to_string(t.channels) + " values");
  }
  if (source == target.tensor) refuse("max_pool: the source cannot be the target");
  const Tensor& to = codes_of(target.tensor, "max_pool");
  if (to.bits != t.bits || to.zero != t.zero || to.scale != t.scale) refuse("max_pool: source and target must share a quantizer");
  check_write({target}, t.channels, static_cast<int64_t>(rows.size() / 2), static_cast<int64_t>(columns.size() / 2), "max_pool");
  StepInfo info{"max_pool", "window"};
  info.source = source;
  info.a_bits = t.bits;
  auto step = make_max_pool(source, target, std::move(rows), std::move(columns), dilation[0], dilation[1], least);
  add(std::move(step), {source}, {target}, t.channels, std::move(info));
}

void Plan::window_mean(int source, std::vector<int32_t> rows, std::vector<int32_t> columns, std::vector<float> divisor, FinishSpec finish) {
  const Tensor& t = codes_of(source, "window_mean");
  readable({source, 0}, t.channels, "window_mean");
  check_windows("window_mean rows", rows, t.height);
  check_windows("window_mean columns", columns, t.width);
  const int64_t height = static_cast<int64_t>(rows.size() / 2);
  const int64_t width = static_cast<int64_t>(columns.size() / 2);
  if (static_cast<int64_t>(divisor.size()) != height * width) refuse("window_mean: expected a divisor a window");
  if (!std::all_of(divisor.begin(), divisor.end(), [](float d) { return std::isfinite(d) && d != 0; })) {
    refuse("window_mean: divisors must be finite and not 0");
  }
  if (!std::all_of(divisor.begin(), divisor.end(), [&](float d) { return std::isfinite(t.scale / finish.unit / d); })) {
    refuse("window_mean: scale / divisor is not finite");
  }
  check_sums("window_mean", int64_t{t.height} * t.width, t.bits, 0, {1, false}, 0, {});  // the zeros are taken off at the end
  check_finish(finish, t.channels, height, width, source, false, "window_mean");
  StepInfo info{"window_mean", "window"};
  info.source = source;
  info.a_bits = t.bits;
  auto step = make_window_mean(source, t, std::move(rows), std::move(columns), divisor, finish);
  add_with(std::move(step), source, finish, t.channels, std::move(info));
}

void Plan::rescale(int source, FinishSpec finish) {
  const Tensor& t = codes_of(source, "rescale");
  readable({source, 0}, t.channels, "rescale");
  check_finish(finish, t.channels, t.height, t.width, source, false, "rescale");
  if (!std::isfinite(t.scale / finish.unit * 255.0f)) refuse("rescale: 255 * scale / unit is not finite");
  StepInfo info{"rescale", "elementwise"};
  info.source = source;
  info.a_bits = t.bits;
  add_with(make_rescale(source, t, finish), source, finish, t.channels, std::move(info));
}

void Plan::gather(Slice source, int64_t channels, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns) {
  const Tensor& t = codes_of(source.tensor, "gather");
  readable(source, channels, "gather");
  const auto inside = [](const std::vector<int32_t>& at, int64_t size) {
    return !at.empty() && std::all_of(at.begin(), at.end(), [size](int32_t i) { return i >= -1 && i < size; });
  };
  if (!inside(rows, t.height) || !inside(columns, t.width)) refuse("gather: an index is outside the image");
  if (source.tensor == target.tensor) refuse("gather: the source cannot be the target");
  const Tensor& to = codes_of(target.tensor, "gather");
  if (to.bits != t.bits || to.zero != t.zero || to.scale != t.scale) refuse("gather: source and target must share a quantizer");
  check_write({target}, channels, static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns.size()), "gather");
  StepInfo info{"gather", "copy"};
  info.source = source.tensor;
  info.a_bits = t.bits;
  auto step = make_gather(source, channels, target, std::move(rows), std::move(columns));
  add(std::move(step), {source.tensor}, {target}, channels, std::move(info));
}

void Plan::output(int id, bool nhwc) {
  const int64_t channels = tensor(id, "output").channels;
  const Tensor& t = readable({id, 0}, channels, "output");
  Port port{t.is_codes, nhwc ? std::vector<int64_t>{t.height, t.width, t.channels} : std::vector<int64_t>{t.channels, t.height, t.width}};
  output_ports_.reserve(output_ports_.size() + 1);
  StepInfo info{"output", "copy"};
  info.source = id;
  add(make_output_step(id, nhwc, output_ports_.size()), {id}, {}, 0, std::move(info));
  output_ports_.push_back(std::move(port));
}

}  // namespace ulp
