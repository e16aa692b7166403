// The steps without weights: input, pooling, change of format, gather, output.
#include "steps.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "../gemm/range.h"
#include "../gemm/scratch.h"
#include "../gemm/threads.h"

namespace ulp {
namespace {

// Sums on their way to the epilogue stay in the first-level cache.
constexpr int64_t kSumBytes = 12 * 1024;

// Elements of an image below which its rows are not handed out to threads.
constexpr int64_t kParallelElements = int64_t{1} << 17;

// Calls body(image, first row, end) for all rows of all images, in parallel where that pays.
template <class Body>
void for_rows(const Context& c, int64_t height, int64_t elements, const Body& body) {
  Tasks tasks = c.tasks;
  tasks.parallel &= elements * c.images >= kParallelElements;
  const int64_t parts = tasks.parallel ? std::min<int64_t>(height, 2 * tasks.threads) : 1;
  tasks.run(c.images * parts, [&](int64_t index) {
    const Range rows = part(height, parts, index % parts);
    body(index / parts, rows.begin, rows.end);
  });
}

int64_t elements(const Tensor& t) { return int64_t{t.height} * t.width * t.channels; }

class InputFloats final : public Step {
 public:
  InputFloats(int64_t channels, int64_t height, int64_t width, std::vector<int> targets, bool divide)
      : channels_(channels), height_(height), width_(width), targets_(std::move(targets)), divide_(divide) {}

  void run(const Context& c) const override {
    const float* x = static_cast<const float*>(c.input) + c.first_image * channels_ * height_ * width_;
    std::atomic<bool> finite{true};
    for_rows(c, height_, channels_ * height_ * width_, [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        Target at[kMaxTargets];
        for (size_t t = 0; t < targets_.size(); ++t) {
          const Tensor& to = c.tensor(targets_[t]);
          at[t] = {c.at(targets_[t]) + i * to.image + y * to.row,
                   nullptr,
                   to.pixel,
                   divide_ ? 1.0f : 1.0f / to.scale,
                   to.zero,
                   (1 << to.bits) - 1,
                   nullptr,
                   nullptr,
                   0};
        }
        const float* row = x + i * channels_ * height_ * width_ + y * width_;
        if (!(divide_ ? quantize_divided(c, row, at) : c.ops.quantize(row, height_ * width_, width_, channels_, at, count()))) {
          finite.store(false);
        }
      }
    });
    if (!finite.load()) throw NotFinite("the input holds a NaN or an infinity");
  }

 private:
  int count() const { return static_cast<int>(targets_.size()); }

  // One row of the image, divided by each target's scale before it is quantized. What is finite and leaves float32 is clamped first.
  bool quantize_divided(const Context& c, const float* row, const Target* at) const {
    thread_local Scratch memory;
    float* quotients;
    memory.lay_out(scratch_array(quotients, channels_ * width_));
    bool finite = true;
    for (int t = 0; t < count(); ++t) {
      const float scale = c.tensor(targets_[static_cast<size_t>(t)]).scale;
      for (int64_t n = 0; n < channels_; ++n) {
        const float* from = row + n * height_ * width_;
        float* to = quotients + n * width_;
        if (scale >= 1.0f) {
          for (int64_t x = 0; x < width_; ++x) to[x] = from[x] / scale;
        } else {
          const float most = 256.0f * scale;  // 2^8 steps; an infinity or NaN stays what it is
          for (int64_t x = 0; x < width_; ++x) {
            const float v = from[x];
            const float clamped = v > most ? most : v < -most ? -most : v;
            to[x] = (v - v == 0 ? clamped : v) / scale;
          }
        }
      }
      finite &= c.ops.quantize(quotients, width_, width_, channels_, at + t, 1);
    }
    return finite;
  }

  int64_t channels_, height_, width_;
  std::vector<int> targets_;
  bool divide_;
};

class InputCodes final : public Step {
 public:
  InputCodes(int tensor, bool nhwc) : tensor_(tensor), nhwc_(nhwc) {}

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(tensor_);
    const uint8_t* x = static_cast<const uint8_t*>(c.input) + c.first_image * elements(t);
    const uint8_t mask = static_cast<uint8_t>(0xFF << t.bits);
    std::atomic<bool> in_range{true};
    for_rows(c, t.height, elements(t), [&](int64_t i, int64_t begin, int64_t end) {
      const uint8_t* image = x + i * elements(t);
      uint8_t seen = 0;
      for (int64_t y = begin; y < end; ++y) {
        uint8_t* to = c.at(tensor_) + i * t.image + y * t.row;
        if (nhwc_) {
          const int64_t row = int64_t{t.width} * t.channels;
          const uint8_t* from = image + y * row;
          for (int64_t j = 0; j < row; ++j) seen = static_cast<uint8_t>(seen | from[j]);
          if (t.pixel == t.channels) {
            std::memcpy(to, from, static_cast<size_t>(row));
          } else {
            for (int64_t p = 0; p < t.width; ++p) std::memcpy(to + p * t.pixel, from + p * t.channels, static_cast<size_t>(t.channels));
          }
        } else {
          for (int64_t channel = 0; channel < t.channels; ++channel) {
            const uint8_t* from = image + (channel * t.height + y) * t.width;
            for (int64_t p = 0; p < t.width; ++p) {
              seen = static_cast<uint8_t>(seen | from[p]);
              to[p * t.pixel + channel] = from[p];
            }
          }
        }
      }
      if (seen & mask) in_range.store(false);
    });
    if (!in_range.load()) throw CodeOutOfRange("the input holds codes beyond " + std::to_string((1 << t.bits) - 1));
  }

 private:
  int tensor_;
  bool nhwc_;
};

class MaxPool final : public Step {
 public:
  MaxPool(int source, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns, int step_y, int step_x,
          const std::vector<bool>& least)
      : source_(source), target_(target), rows_(std::move(rows)), columns_(std::move(columns)), step_y_(step_y), step_x_(step_x) {
    for (const bool l : least) turns_.push_back(l ? 0xFF : 0);
  }

  void run(const Context& c) const override {
    const Tensor& from = c.tensor(source_);
    const Tensor& to = c.tensor(target_.tensor);
    const int64_t height = static_cast<int64_t>(rows_.size() / 2);
    const size_t width = columns_.size() / 2;
    for_rows(c, height, elements(from), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        uint8_t* out = c.at(target_.tensor) + i * to.image + y * to.row + target_.channel;
        const size_t r = static_cast<size_t>(2 * y);
        Window w{c.at(source_) + i * from.image, from.row, from.pixel, rows_[r], rows_[r + 1], step_y_, 0, 0, step_x_, from.channels};
        for (size_t x = 0; x < width; ++x, out += to.pixel) {
          w.x0 = columns_[2 * x];
          w.x1 = columns_[2 * x + 1];
          turns_.empty() ? c.ops.window_max(w, out) : window_extreme(w, out);
        }
      }
    });
  }

 private:
  // The least code is what the largest one among the codes' complements belongs to.
  void window_extreme(const Window& w, uint8_t* out) const {
    const uint8_t* turns = turns_.data();
    std::memset(out, 0, static_cast<size_t>(w.channels));
    for (int y = w.y0; y < w.y1; y += w.y_step) {
      for (int x = w.x0; x < w.x1; x += w.x_step) {
        const uint8_t* a = w.a + y * w.row + x * w.pixel;
        for (int64_t n = 0; n < w.channels; ++n) {
          const uint8_t turned = a[n] ^ turns[n];
          out[n] = out[n] > turned ? out[n] : turned;
        }
      }
    }
    for (int64_t n = 0; n < w.channels; ++n) out[n] ^= turns[n];
  }

  int source_;
  Slice target_;
  std::vector<int32_t> rows_, columns_;
  int step_y_, step_x_;
  std::vector<uint8_t> turns_;  // 0xFF where the least code is wanted; empty: nowhere
};

class WindowMean final : public Step {
 public:
  WindowMean(int source, const Tensor& tensor, std::vector<int32_t> rows, std::vector<int32_t> columns, const std::vector<float>& divisor,
             FinishSpec finish)
      : source_(source), rows_(std::move(rows)), columns_(std::move(columns)), finish_(std::move(finish)) {
    for (const float d : divisor) {
      const float scale = tensor.scale / finish_.unit / d;
      const auto known = std::find(scales_.begin(), scales_.end(), scale);
      which_.push_back(static_cast<size_t>(known - scales_.begin()));
      if (known == scales_.end()) scales_.push_back(scale);
    }
    const size_t channels = static_cast<size_t>(tensor.channels);
    for (const float scale : scales_) arrays_.insert(arrays_.end(), channels, scale);
    finish_.scale.assign(arrays_.begin(), arrays_.begin() + static_cast<int64_t>(channels));
    finish_.bias.assign(channels, 0.0f);
  }

  void run(const Context& c) const override {
    const Tensor& from = c.tensor(source_);
    const Output whole = make_output(finish_, c);
    const int64_t width = static_cast<int64_t>(columns_.size() / 2);
    for_rows(c, static_cast<int64_t>(rows_.size() / 2), elements(from), [&](int64_t i, int64_t begin, int64_t end) {
      thread_local Scratch sums;
      int32_t* acc;
      sums.lay_out(scratch_array(acc, from.channels));
      Output output = whole;
      for (int64_t y = begin; y < end; ++y) {
        const size_t r = static_cast<size_t>(2 * y);
        Window w{c.at(source_) + i * from.image, from.row, from.pixel, rows_[r], rows_[r + 1], 1, 0, 0, 1, from.channels};
        for (int64_t x = 0; x < width; ++x) {
          w.x0 = columns_[static_cast<size_t>(2 * x)];
          w.x1 = columns_[static_cast<size_t>(2 * x + 1)];
          c.ops.window_sum(w, acc);
          const int32_t zeros = (w.y1 - w.y0) * (w.x1 - w.x0) * from.zero;
          if (zeros != 0) {
            for (int64_t n = 0; n < from.channels; ++n) acc[n] -= zeros;
          }
          output.scale = arrays_.data() + which_[static_cast<size_t>(y * width + x)] * static_cast<size_t>(from.channels);
          output.store(i, y, x, 1, 0, from.channels, acc, from.channels);
        }
      }
    });
  }

 private:
  int source_;
  std::vector<int32_t> rows_, columns_;
  FinishSpec finish_;
  std::vector<float> scales_;
  std::vector<float> arrays_;  // each of scales_, once a channel
  std::vector<size_t> which_;  // scale of each window
};

class Rescale final : public Step {
 public:
  Rescale(int source, const Tensor& tensor, FinishSpec finish) : source_(source), finish_(std::move(finish)) {
    finish_.scale.assign(static_cast<size_t>(tensor.channels), tensor.scale / finish_.unit);
    finish_.bias.assign(static_cast<size_t>(tensor.channels), 0.0f);
  }

  void run(const Context& c) const override {
    const Tensor& from = c.tensor(source_);
    const Output output = make_output(finish_, c);
    for_rows(c, from.height, elements(from), [&](int64_t i, int64_t begin, int64_t end) {
      constexpr int64_t kChannels = 128;
      constexpr int64_t kPixels = kSumBytes / 4 / kChannels;
      alignas(64) int32_t acc[kSumBytes / 4];
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t n0 = 0; n0 < from.channels; n0 += kChannels) {
          const int64_t channels = std::min<int64_t>(kChannels, from.channels - n0);
          for (int64_t x = 0; x < from.width; x += kPixels) {
            const int64_t pixels = std::min<int64_t>(kPixels, from.width - x);
            const uint8_t* codes = c.at(source_) + i * from.image + y * from.row + x * from.pixel + n0;
            for (int64_t p = 0; p < pixels; ++p) {
              for (int64_t n = 0; n < channels; ++n) acc[p * kChannels + n] = codes[p * from.pixel + n] - from.zero;
            }
            output.store(i, y, x, pixels, n0, channels, acc, kChannels);
          }
        }
      }
    });
  }

 private:
  int source_;
  FinishSpec finish_;
};

class GatherStep final : public Step {
 public:
  GatherStep(Slice source, int64_t channels, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns)
      : source_(source), target_(target), channels_(channels), rows_(std::move(rows)), columns_(std::move(columns)) {}

  void run(const Context& c) const override {
    const Tensor& from = c.tensor(source_.tensor);
    const Tensor& to = c.tensor(target_.tensor);
    const size_t bytes = static_cast<size_t>(channels_);
    for_rows(c, static_cast<int64_t>(rows_.size()), elements(to), [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        uint8_t* out = c.at(target_.tensor) + i * to.image + y * to.row + target_.channel;
        const int32_t from_y = rows_[static_cast<size_t>(y)];
        const uint8_t* row = c.at(source_.tensor) + i * from.image + std::max(from_y, 0) * from.row + source_.channel;
        for (const int32_t from_x : columns_) {
          if (from_y < 0 || from_x < 0) {
            std::memset(out, to.zero, bytes);
          } else {
            std::memcpy(out, row + from_x * from.pixel, bytes);
          }
          out += to.pixel;
        }
      }
    });
  }

 private:
  Slice source_, target_;
  int64_t channels_;
  std::vector<int32_t> rows_, columns_;
};

class OutputStep final : public Step {
 public:
  OutputStep(int tensor, bool nhwc, size_t port) : tensor_(tensor), nhwc_(nhwc), port_(port) {}

  int direct_port(const std::vector<Tensor>& tensors) const override {
    const Tensor& t = tensors[static_cast<size_t>(tensor_)];
    const bool as_it_lies = nhwc_ || t.channels == 1 || t.height * int64_t{t.width} == 1;
    return as_it_lies && t.whole() && t.pixel == t.channels * t.element() ? static_cast<int>(port_) : -1;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(tensor_);
    if (t.port == static_cast<int>(port_)) return;
    const int64_t image = elements(t);
    uint8_t* out = static_cast<uint8_t*>(c.outputs[port_]) + c.first_image * image * t.element();
    for_rows(c, t.height, image, [&](int64_t i, int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        const uint8_t* from = c.at(tensor_) + i * t.image + y * t.row;
        uint8_t* to = out + i * image * t.element();
        if (nhwc_ || t.pixel == t.element()) {  // pixels as they lie
          to += y * t.width * t.channels * t.element();
          const int64_t bytes = t.channels * t.element();
          if (bytes == t.pixel) {
            std::memcpy(to, from, static_cast<size_t>(t.width * bytes));
          } else {
            for (int64_t x = 0; x < t.width; ++x) std::memcpy(to + x * bytes, from + x * t.pixel, static_cast<size_t>(bytes));
          }
        } else if (t.is_codes) {
          for (int64_t n = 0; n < t.channels; ++n) {
            for (int64_t x = 0; x < t.width; ++x) to[(n * t.height + y) * t.width + x] = from[x * t.pixel + n];
          }
        } else {
          c.ops.to_planes(reinterpret_cast<const float*>(from), t.pixel / 4, t.width, t.channels,
                          reinterpret_cast<float*>(to) + y * t.width, int64_t{t.height} * t.width);
        }
      }
    });
  }

 private:
  int tensor_;
  bool nhwc_;
  size_t port_;
};

}  // namespace

Output make_output(const FinishSpec& finish, const Context& c) {
  Output o;
  o.ops = &c.ops;
  o.scale = finish.scale.data();
  o.bias = finish.bias.data();
  o.start = finish.start.empty() ? nullptr : finish.start.data();
  o.low = finish.low;
  o.high = finish.high;
  const auto place = [](const Tensor& t) -> ImageStrides { return {t.pixel / t.element(), t.row / t.element(), t.image / t.element()}; };
  if (finish.residual.tensor >= 0) {
    const Tensor& t = c.tensor(finish.residual.tensor);
    o.residual = c.at(finish.residual.tensor) + finish.residual.channel;
    o.residual_place = place(t);
    o.residual_scale = t.scale / finish.unit;
    o.residual_zero = t.zero;
  }
  for (size_t i = 0; i < finish.targets.size(); ++i) {
    const Slice s = finish.targets[i];
    const Tensor& t = c.tensor(s.tensor);
    Target& target = o.targets[i];
    target.pixel = t.pixel / t.element();
    if (t.is_codes) {
      target.codes = c.at(s.tensor) + s.channel;
      target.inverse = finish.unit / t.scale;
      target.zero = t.zero;
      target.max_code = (1 << t.bits) - 1;
      if (!finish.thresholds.empty() && !finish.thresholds[i].values.empty()) {
        target.thresholds = finish.thresholds[i].values.data();
        target.flip = finish.thresholds[i].flip.data();
      }
    } else {
      target.floats = reinterpret_cast<float*>(c.at(s.tensor)) + s.channel;
    }
    o.places[i] = place(t);
  }
  o.target_count = static_cast<int>(finish.targets.size());
  return o;
}

std::unique_ptr<Step> make_input_floats(int64_t channels, int64_t height, int64_t width, std::vector<int> targets, bool divide) {
  return std::make_unique<InputFloats>(channels, height, width, std::move(targets), divide);
}
std::unique_ptr<Step> make_input_codes(int tensor, bool nhwc) { return std::make_unique<InputCodes>(tensor, nhwc); }
std::unique_ptr<Step> make_max_pool(int source, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns, int step_y,
                                    int step_x, const std::vector<bool>& least) {
  return std::make_unique<MaxPool>(source, target, std::move(rows), std::move(columns), step_y, step_x, least);
}
std::unique_ptr<Step> make_window_mean(int source, const Tensor& tensor, std::vector<int32_t> rows, std::vector<int32_t> columns,
                                       const std::vector<float>& divisor, FinishSpec finish) {
  return std::make_unique<WindowMean>(source, tensor, std::move(rows), std::move(columns), divisor, std::move(finish));
}
std::unique_ptr<Step> make_rescale(int source, const Tensor& tensor, FinishSpec finish) {
  return std::make_unique<Rescale>(source, tensor, std::move(finish));
}
std::unique_ptr<Step> make_gather(Slice source, int64_t channels, Slice target, std::vector<int32_t> rows, std::vector<int32_t> columns) {
  return std::make_unique<GatherStep>(source, channels, target, std::move(rows), std::move(columns));
}
std::unique_ptr<Step> make_output_step(int tensor, bool nhwc, size_t port) { return std::make_unique<OutputStep>(tensor, nhwc, port); }

}  // namespace ulp
