// The steps that multiply: convolution, depthwise convolution, linear.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "../conv/conv_methods.h"
#include "../gemm/gemm.h"
#include "../gemm/range.h"
#include "../gemm/scratch.h"
#include "../gemm/threads.h"
#include "../ops/finish_sink.h"
#include "steps.h"

namespace ulp {
namespace {

// Sums on their way to the epilogue stay in the first-level cache.
constexpr int64_t kSumBytes = 12 * 1024;

// Of each way to compute a convolution, when they are timed against one another.
constexpr int kLeastRounds = 4;
constexpr int kMostRounds = 24;
constexpr double kTuneSeconds = 0.01;

class ConvStep final : public Step {
 public:
  ConvStep(Slice source, const ConvProblem& problem, FinishSpec finish, std::string method)
      : source_(source), problem_(problem), finish_(std::move(finish)), method_(std::move(method)) {
    macs_ = problem.shape.pixels() * problem.weights.layout.k * problem.weights.layout.n;
    check_method();
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t, StepInfo& info) override {
    const Tensor& t = tensors[static_cast<size_t>(source_.tensor)];
    ways_ = candidates();
    int64_t bytes = 0;
    for (const auto& way : ways_) bytes = std::max(bytes, way->bind({t.pixel, t.row, t.image}));
    info.method = ways_[0]->method();
    return bytes;
  }

  // Keeps the fastest of the ways, by the clock.
  void tune(const Context& c, StepInfo& info) override {
    if (ways_.size() < 2) return;
    using Clock = std::chrono::steady_clock;
    const auto seconds_since = [](Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    std::vector<double> best(ways_.size(), std::numeric_limits<double>::infinity());
    const Clock::time_point start = Clock::now();
    // The first round warms up; small layers, which a neighbour on the machine disturbs most, get more of them.
    for (int round = 0; round < kLeastRounds || (round < kMostRounds && seconds_since(start) < kTuneSeconds); ++round) {
      for (size_t i = 0; i < ways_.size(); ++i) {
        const Clock::time_point begin = Clock::now();
        run_way(*ways_[i], c);
        if (round > 0) best[i] = std::min(best[i], seconds_since(begin));
      }
    }
    const auto fastest = std::min_element(best.begin(), best.end()) - best.begin();
    std::swap(ways_[0], ways_[static_cast<size_t>(fastest)]);
    ways_.resize(1);
    info.method = ways_[0]->method();
  }

  void run(const Context& c) const override { run_way(*ways_[0], c); }

 private:
  void run_way(const Conv& way, const Context& c) const {
    Tasks tasks = c.tasks;
    tasks.parallel &= macs_ * c.images >= kParallelMacs;
    way.run(c.source(source_), c.images, c.arena + scratch, make_output(finish_, c), tasks);
  }

  // A method that cannot compute this is refused when the step is added, before the plan changes.
  void check_method() const {
    if (const ConvMethod* named = find_conv_method(method_)) {
      check(*named, problem_);
    } else if (!method_.empty() && method_ != "direct") {
      gather_kernel();
    }
  }

  const Kernel& gather_kernel() const {
    const Kernel& kernel = select_kernel(gemm_shape(), method_.c_str());
    if (!takes_gather(kernel))
      throw std::invalid_argument("kernel '" + method_ +
                                  "' cannot convolve here: it reads rows at one stride, or pixels of a multiple of 4 or 8 channels");
    return kernel;
  }

  Shape gemm_shape() const {
    const BitpackedLayout& layout = problem_.weights.layout;
    return {problem_.shape.pixels(), layout.n, layout.k, {problem_.a_bits, false}, problem_.weights.encoding};
  }

  // The one that was asked for; or those that may be the fastest, the likeliest first.
  std::vector<std::unique_ptr<Conv>> candidates() const {
    const bool any = method_.empty();
    std::vector<std::unique_ptr<Conv>> ways;
    if (const ConvMethod* named = find_conv_method(method_)) {
      ways.push_back(make_conv(*named, problem_));
    } else if (any || method_ == "direct") {
      const std::vector<const Kernel*> kernels = direct_kernels(gemm_shape());
      for (size_t i = 0; i < std::min<size_t>(kernels.size(), any ? 2 : 1); ++i) ways.push_back(make_direct(problem_, *kernels[i]));
      if (any) {
        for (const ConvMethod& method : conv_methods()) {
          if (!why_not(method, problem_).empty()) continue;
          ways.push_back(make_conv(method, problem_));
          if (method.prefer(problem_)) std::swap(ways.front(), ways.back());
        }
      }
    } else {
      ways.push_back(make_direct(problem_, gather_kernel()));
    }
    return ways;
  }

  // Those that can convolve this, the likeliest to be the fastest first: by the measured costs, as if the last columns were whole vectors.
  std::vector<const Kernel*> direct_kernels(const Shape& shape) const {
    std::vector<std::pair<double, const Kernel*>> found;
    for (const Ranked& r : rank_kernels(shape)) {
      if (!r.why_not.empty() || !takes_gather(*r.kernel)) continue;
      const int64_t vector = r.kernel->nr > kPanelCols ? kPanelCols : kUnitCols;
      const double waste = static_cast<double>(round_up(shape.n, vector)) / static_cast<double>(shape.n);
      found.emplace_back(std::isnan(r.estimate.seconds) ? std::numeric_limits<double>::max() : r.estimate.seconds * waste, r.kernel);
    }
    std::stable_sort(found.begin(), found.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
    std::vector<const Kernel*> kernels;
    for (const auto& f : found) kernels.push_back(f.second);
    return kernels;
  }

  bool takes_gather(const Kernel& kernel) const {
    const KernelAtBits bound = kernel.bind(problem_.a_bits, problem_.weights.encoding.bits);
    return bound.step_k > 0 && problem_.shape.segment_k() % bound.step_k == 0 && (bound.any_start || !problem_.shape.tight);
  }

  Slice source_;
  ConvProblem problem_;
  FinishSpec finish_;
  std::string method_;
  int64_t macs_;
  std::vector<std::unique_ptr<Conv>> ways_;
};

class DepthwiseStep final : public Step {
 public:
  DepthwiseStep(int source, const ConvShape& shape, int a_bits, int a_zero, const std::vector<int8_t>& weights, FinishSpec finish)
      : source_(source), shape_(shape), finish_(std::move(finish)) {
    const int64_t channels = shape.channels;
    stride_ = round_up(channels, 32);
    weights_.assign(static_cast<size_t>(shape.taps() * stride_ + 32), 0);
    start_.assign(static_cast<size_t>(channels), 0);
    int largest = 0;
    for (int64_t t = 0; t < shape.taps(); ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        const int8_t w = weights[static_cast<size_t>(t * channels + c)];
        weights_[static_cast<size_t>(t * stride_ + c)] = w;
        start_[static_cast<size_t>(c)] -= a_zero * w;
        largest = std::max(largest, w < 0 ? -w : w);
      }
    }
    max_product_ = ((1 << a_bits) - 1) * largest;
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t, StepInfo& info) override {
    const Tensor& t = tensors[static_cast<size_t>(source_)];
    taps_.clear();
    for (int y = 0; y < shape_.kernel_y; ++y) {
      for (int x = 0; x < shape_.kernel_x; ++x) taps_.push_back(y * shape_.dilation_y * t.row + x * shape_.dilation_x * t.pixel);
    }
    info.method = "depthwise";
    return 0;
  }

  void run(const Context& c) const override {
    const DepthwiseMethod& method = depthwise_method();
    const Output output = make_output(finish_, c);
    const CodeImages source = c.source({source_, 0}).from(-shape_.pad_top, -shape_.pad_left);
    const int64_t macs = shape_.pixels() * shape_.taps() * shape_.channels * c.images;
    Tasks tasks = c.tasks;
    tasks.parallel &= macs >= kParallelMacs / 8;
    const int64_t parts = tasks.parallel ? std::min<int64_t>(shape_.out_height, 2 * tasks.threads) : 1;
    tasks.run(c.images * parts, [&](int64_t index) {
      const int64_t i = index / parts;
      const Range rows = part(shape_.out_height, parts, index % parts);
      alignas(64) int32_t acc[kSumBytes / 4];
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        for (int64_t n0 = 0; n0 < shape_.channels; n0 += kChannels) {
          const int64_t channels = std::min<int64_t>(kChannels, shape_.channels - n0);
          for (int64_t x = 0; x < shape_.out_width; x += kPixels) {
            const int64_t pixels = std::min<int64_t>(kPixels, shape_.out_width - x);
            method.run({source.pixel(i, y * shape_.stride_y, x * shape_.stride_x) + n0, shape_.stride_x * source.strides.pixel,
                        taps_.data(), static_cast<int>(taps_.size()), weights_.data() + n0, stride_, max_product_, start_.data() + n0,
                        pixels, channels, acc, kChannels});
            output.store(i, y, x, pixels, n0, channels, acc, kChannels);
          }
        }
      }
    });
  }

 private:
  static constexpr int64_t kChannels = 96;  // of which usual widths are multiples
  static constexpr int64_t kPixels = kSumBytes / 4 / kChannels;

  int source_;
  ConvShape shape_;
  FinishSpec finish_;
  int64_t stride_;
  std::vector<int8_t> weights_;
  std::vector<int32_t> start_;
  std::vector<int64_t> taps_;
  int max_product_;
};

class LinearStep final : public Step {
 public:
  LinearStep(int source, const PackedMatrix& weights, int a_bits, int w_zero, FinishSpec finish, std::string kernel)
      : source_(source), weights_(weights), w_zero_(w_zero), finish_(std::move(finish)), name_(std::move(kernel)) {
    choose_kernel(1, a_bits);  // refuses what cannot run
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t group, StepInfo& info) override {
    const Tensor& t = tensors[static_cast<size_t>(source_)];
    choose_kernel(group, t.bits);
    info.method = kernel_->name;
    return t.whole() ? 0 : round_up(weights_.layout.k, 64);
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source_);
    Problem p;
    p.a = {c.at(source_), c.images, weights_.layout.k, t.image, 1, false};
    p.a_encoding = {t.bits, false};
    p.b = &weights_;
    p.a_zero = t.zero;
    p.b_zero = &w_zero_;
    if (!t.whole()) {
      uint8_t* flat = c.arena + scratch;
      const int64_t row = t.width * t.pixel;
      for (int64_t i = 0; i < c.images; ++i) {
        for (int64_t y = 0; y < t.height; ++y) {
          std::memcpy(flat + i * weights_.layout.k + y * row, c.at(source_) + i * t.image + y * t.row, static_cast<size_t>(row));
        }
      }
      p.a.data = flat;
      p.a.row_stride = weights_.layout.k;
    }
    Output output = make_output(finish_, c);
    p.start = output.start;
    output.start = nullptr;
    output.take_images_as_pixels();  // a row of the product is an image of one pixel
    gemm(p, *kernel_, FinishSink(output, 0, c.images));
  }

 private:
  void choose_kernel(int64_t group, int a_bits) {
    const Shape shape{group, weights_.layout.n, weights_.layout.k, {a_bits, false}, weights_.encoding};
    kernel_ = &select_kernel(shape, name_.empty() ? nullptr : name_.c_str());
  }

  int source_;
  const PackedMatrix& weights_;
  int32_t w_zero_;
  FinishSpec finish_;
  std::string name_;
  const Kernel* kernel_ = nullptr;
};

}  // namespace

std::unique_ptr<Step> make_conv(Slice source, const ConvProblem& problem, FinishSpec finish, std::string method) {
  return std::make_unique<ConvStep>(source, problem, std::move(finish), std::move(method));
}

std::unique_ptr<Step> make_depthwise(int source, const ConvShape& shape, int a_bits, int a_zero, const std::vector<int8_t>& weights,
                                     FinishSpec finish) {
  return std::make_unique<DepthwiseStep>(source, shape, a_bits, a_zero, weights, std::move(finish));
}

std::unique_ptr<Step> make_linear(int source, const PackedMatrix& weights, int a_bits, int w_zero, FinishSpec finish, std::string kernel) {
  return std::make_unique<LinearStep>(source, weights, a_bits, w_zero, std::move(finish), std::move(kernel));
}

}  // namespace ulp
