// A convolution with an epilogue:
//
//     acc[y][x][n] = start[n] + sum over ky, kx, c of (a - zero) * (w[ky][kx][c][n] - weight_zero)
//
// source: `channels` channels of an image from source_channel on, channels = K / taps. weights: packed, K x N, rows in the order (ky, kx,
// c), channels a multiple of 4; the result is H' x W' x N. What lies behind the channels that the layer means is read, too: weights there
// must be weight_zero, or the codes there must be zero, as they are behind the tensor's last channel.
//
// Weights of kernel_y x padded (kernel_x x channels) are `tight` (conv.h); where K fits both ways they are taken so, too.
// The sum, start included, stays in int32 (Checks::sums).
//
// method: empty, and the fastest is taken, by rule or by measurement; "direct"; the technique or the name of a row of
// conv_methods(), such as "winograd"; or a kernel's name.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "../../conv/conv_methods.h"
#include "../../gemm/gemm.h"
#include "../../gemm/threads.h"
#include "../clock.h"
#include "../conv_shape.h"
#include "../finish_spec.h"
#include "../step.h"

namespace ulp {
namespace {

// How often each way to compute a convolution is timed.
constexpr int kMinRounds = 4;
constexpr int kMaxRounds = 24;
constexpr int64_t kTuneNs = 10'000'000;
constexpr double kTuneMargin = 0.97;
// A second kernel that is expected to take so many times as long as the first is not timed.
constexpr double kHopeless = 2;

struct ConvStep final : Step {
  int source = -1, source_channel = 0;
  Weights weights;
  ConvWindow window;
  int weight_zero = 0;
  FinishSpec finish;
  std::string requested{};  // the field `method`

  std::optional<ConvProblem> problem{};
  std::vector<std::unique_ptr<Conv>> ways{};  // the first one runs

  FieldList fields() override {
    return {{"source", &source},
            {"source_channel", &source_channel},
            {"weights", &weights},
            {"kernel", &window.kernel},
            {"stride", &window.stride},
            {"padding", &window.padding},
            {"dilation", &window.dilation},
            {"weight_zero", &weight_zero},
            {"finish", &finish},
            {"method", &requested}};
  }

  std::string method() const override { return ways.empty() ? requested : ways[0]->method(); }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.codes(source);
    const BitpackedLayout& layout = weights->layout;
    const int64_t taps = checked_taps(window.kernel);
    const bool tight = is_tight(t);
    if (layout.n < 1 || layout.k < 1 || (!tight && layout.k % (4 * taps))) {
      plan.refuse(": weights of K = " + std::to_string(layout.k) + " do not fit " + std::to_string(taps) +
                  " taps of a multiple of 4 channels");
    }
    const int64_t channels = tight ? t.channels : layout.k / taps;  // with pads
    const int64_t own = std::min<int64_t>(channels, int64_t{t.channels} - source_channel);
    tight ? check_tight(plan, taps * t.channels) : check_padded(plan, t, channels, own);
    plan.readable({source, source_channel}, own);
    plan.layout(source, tight ? PixelLayout::tight : PixelLayout::padded);
    const int64_t largest_sum = plan.sums(layout.k, t.bits, t.zero, weights->encoding, weight_zero, finish.start);
    ConvShape shape = conv_shape(plan, t, channels, window);
    shape.tight = tight;
    check_sides(shape.out_height, shape.out_width, layout.n);
    finish.check(plan, {shape.out_height, shape.out_width, layout.n, source, true, largest_sum});
    problem.emplace(ConvProblem{shape, *weights, t.bits, t.zero, weight_zero});
    check_method();

    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = layout.n;
    e.border = conv_border(shape);
    const int reach = reach_of_methods(*problem);
    e.border.bottom += reach;
    e.border.right += reach;
    e.layout = tight ? PixelLayout::tight : PixelLayout::padded;
    e.macs = shape.pixels() * taps * own * layout.n;
    e.a_bits = t.bits;
    e.w_bits = layout.bits;
    e.weight_bytes = static_cast<int64_t>(weights->data.size());
    return e;
  }

  bool is_tight(const Tensor& t) const {
    const int64_t k = window.kernel[0] * round_up(int64_t{window.kernel[1]} * t.channels, 4);
    return t.channels < 4 && window.dilation[1] == 1 && window.kernel[1] > 1 && weights->layout.k == k;
  }

  void check_tight(const Checks& plan, int64_t unpadded_k) const {
    if (source_channel != 0) plan.refuse(": with weights of kernel height x padded (width x channels) all channels are read");
    if (weights->encoding.bipolar() && weights->layout.k != unpadded_k) plan.refuse(": bipolar weights have no zero for the padded k");
  }

  // own: of the channels, those that the tensor has.
  void check_padded(const Checks& plan, const Tensor& t, int64_t channels, int64_t own) const {
    if (own <= channels - 4) {
      plan.refuse(": weights read " + std::to_string(channels) + " channels from " + std::to_string(source_channel) + " of " +
                  std::to_string(t.channels));
    }
    if (own < channels && weights->encoding.bipolar() && (source_channel % 4 || source_channel + own < t.channels))
      plan.refuse(": bipolar weights have no zero for what lies behind channel " + std::to_string(source_channel + own - 1));
  }

  // A method that cannot compute this is refused when the step is added, before the plan changes.
  void check_method() const {
    if (const ConvMethod* named = find_conv_method(requested)) {
      ulp::check(*named, *problem);
    } else if (!requested.empty() && requested != "direct") {
      requested_kernel();
    }
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t) override {
    if (ways.empty()) ways = candidates();
    int64_t bytes = 0;
    for (const auto& way : ways) bytes = std::max(bytes, way->bind(tensors[static_cast<size_t>(source)].strides));
    return bytes;
  }

  void tune(const Context& c) override {
    if (ways.size() < 2) return;
    std::vector<int64_t> best(ways.size(), std::numeric_limits<int64_t>::max());
    time_ways(c, best);
    size_t fastest = fastest_of(best);
    if (fastest != 0) {  // again, lest something else on the machine has decided
      time_ways(c, best);
      fastest = fastest_of(best);
    }
    std::swap(ways[0], ways[fastest]);
    ways.resize(1);
  }

  // The least time of each way, and of what was there.
  void time_ways(const Context& c, std::vector<int64_t>& best) const {
    const bool one_thread = c.tasks.threads <= 1;
    const int64_t start = clock_ns(one_thread);
    // The first round warms up; small layers, which other processes disturb most, get more of them.
    for (int round = 0; round < kMinRounds || (round < kMaxRounds && clock_ns(one_thread) - start < kTuneNs); ++round) {
      for (size_t i = 0; i < ways.size(); ++i) {
        const int64_t begin = clock_ns(one_thread);
        run_way(*ways[i], c);
        if (round > 0) best[i] = std::min(best[i], clock_ns(one_thread) - begin);
      }
    }
  }

  // The first is what the rule chose: it stays unless another one is clearly faster.
  static size_t fastest_of(const std::vector<int64_t>& best) {
    const size_t fastest = static_cast<size_t>(std::min_element(best.begin(), best.end()) - best.begin());
    return static_cast<double>(best[fastest]) < kTuneMargin * static_cast<double>(best[0]) ? fastest : 0;
  }

  void run(const Context& c) const override { run_way(*ways[0], c); }

  void run_way(const Conv& way, const Context& c) const {
    const ImageView<uint8_t> from = c.codes({source, source_channel});
    Tasks tasks = c.tasks;
    tasks.parallel &= problem->shape.pixels() * weights->layout.k * weights->layout.n * c.images >= kParallelMacs;
    way.run({from.data, from.strides}, c.images, c.scratch, finish.output(c), tasks);
  }

  const Kernel& requested_kernel() const {
    const Kernel& kernel = select_kernel(gemm_shape(), requested.c_str());
    if (!takes_gather(kernel)) {
      refuse("kernel '" + requested + "' cannot convolve here: it reads rows at one stride, or pixels of a multiple of 4 or 8 channels");
    }
    return kernel;
  }

  Shape gemm_shape() const {
    Shape s{problem->shape.pixels(), weights->layout.n, weights->layout.k, {problem->a_bits, false}, weights->encoding};
    s.packs = 1 / static_cast<double>(problem->shape.taps());
    return s;
  }

  // The way that was asked for; or those that may be the fastest, the likeliest first.
  std::vector<std::unique_ptr<Conv>> candidates() const {
    const bool any = requested.empty();
    std::vector<std::unique_ptr<Conv>> found;
    if (const ConvMethod* named = find_conv_method(requested)) {
      ulp::check(*named, *problem);  // again: the ISA may have been limited since the step was added
      found.push_back(named->make(*named, *problem));
    } else if (any || requested == "direct") {
      const std::vector<Likely> kernels = direct_kernels(gemm_shape());
      for (size_t i = 0; i < std::min<size_t>(kernels.size(), any ? 2 : 1); ++i) {
        if (kernels[i].seconds < kHopeless * kernels[0].seconds || i == 0) found.push_back(make_direct(*problem, *kernels[i].kernel));
      }
      if (any) add_methods(found);
    } else {
      found.push_back(make_direct(*problem, requested_kernel()));
    }
    return found;
  }

  void add_methods(std::vector<std::unique_ptr<Conv>>& found) const {
    for (const ConvMethod& method : conv_methods()) {
      if (!why_not(method, *problem).empty() || method.prospect(*problem) == Prospect::loses) continue;
      found.push_back(method.make(method, *problem));  // whatever another thread does to the ISA since the line above
      if (method.prospect(*problem) == Prospect::wins) std::swap(found.front(), found.back());
    }
  }

  struct Likely {
    double seconds;  // expected
    const Kernel* kernel;
  };

  // Kernels that can convolve this, the likeliest to be the fastest first: by the measured costs, as if the last columns were whole
  // vectors.
  std::vector<Likely> direct_kernels(const Shape& shape) const {
    std::vector<Likely> found;
    for (const Ranked& r : rank_kernels(shape)) {
      if (!r.why_not.empty() || !takes_gather(*r.kernel)) continue;
      const int64_t vector = r.kernel->nr > kPanelCols ? kPanelCols : kUnitCols;
      const double waste = static_cast<double>(round_up(shape.n, vector)) / static_cast<double>(shape.n);
      found.push_back({std::isnan(r.estimate.seconds) ? std::numeric_limits<double>::max() : r.estimate.seconds * waste, r.kernel});
    }
    std::stable_sort(found.begin(), found.end(), [](const Likely& x, const Likely& y) { return x.seconds < y.seconds; });
    return found;
  }

  bool takes_gather(const Kernel& kernel) const {
    const KernelAtBits at = kernel.bind(problem->a_bits, weights->encoding.bits);
    return at.step_k > 0 && problem->shape.segment_k() % at.step_k == 0 && (at.any_start || !problem->shape.tight);
  }
};

}  // namespace

std::unique_ptr<Step> make_conv() { return std::make_unique<ConvStep>(); }

}  // namespace ulp
