// A product of floats with weights, whose codes are made in the call:
//
//     scale = (high - low) / levels, zero = rint(-low / scale)        low, high: least and largest of the values and 0; levels: 2^bits - 1
//     u = clamp(rint(x / scale) + zero, 0, levels)                    with per_row clamp(rint(x / scale + zero), 0, levels)
//     v[n] = float(sum over c of (u[c] - zero) * (w[c][n] - weight_zero)) * (scale * weight_scale[n]) + bias[n]
//
// as ONNX's DynamicQuantizeLinear and MatMulInteger define it for 8 bits, and with per_row QONNX's Quant, each operation rounded to
// float32; then a function of single elements. source: H x W x C floats; one scale is for all images of the call, or with per_row one for a
// pixel; target: H x W x N, 1 to 4 targets; the weights are packed, K = C padded to a multiple of 4 (of 32: K is not padded further).
// kernel: empty, or a kernel's name.
//
// outliers: channels that are multiplied in floats beside the product (LLM.int8, Dettmers et al., NeurIPS 2022, section 3.2), with per_row
// only; outlier_weights: their rows of the weights, outliers x N. For the product, and for the range of its codes, they are 0.
//
// Rows go through one product whatever their scales: it multiplies the codes, and zeros times the weights' sums are taken off behind it.
#include <atomic>
#include <cmath>
#include <cstring>

#include "../../gemm/gemm.h"
#include "../../gemm/scratch.h"
#include "../finish_spec.h"
#include "../quantizer.h"
#include "../row_work.h"

namespace ulp {
namespace {

constexpr int64_t kRowsAtOnce = 512;  // whose codes are held at a time
constexpr char kNotFinite[] = "an activation that is quantized in the call holds a NaN or an infinity";

struct DynamicLinearStep final : Step {
  int source = -1;
  Weights weights;
  int32_t weight_zero = 0;
  bool per_row = false;
  FinishSpec finish;  // its scale is the weights'
  std::string requested{};
  int bits = 8;
  std::string name = "identity";
  Ints outliers;
  Array<float, 2> outlier_weights;

  const Kernel* kernel = nullptr;
  RowFunction function = RowFunction::identity;
  std::vector<int32_t> column_sums{};  // of the weights less their zero
  int64_t pixels = 0;                  // of an image
  float largest_scale = 0;

  FieldList fields() override {
    constexpr bool optional = true;
    return {{"source", &source},
            {"weights", &weights},
            {"weight_zero", &weight_zero},
            {"per_row", &per_row},
            {"finish", &finish},
            {"kernel", &requested},
            {"bits", &bits, optional},
            {"function", &name, optional},
            {"outliers", &outliers, optional},
            {"outlier_weights", &outlier_weights, optional}};
  }

  std::string method() const override { return kernel->name; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.tensor(source);
    if (t.is_codes) plan.refuse(": the source must hold floats");
    plan.readable({source, 0}, t.channels);
    const BitpackedLayout& layout = weights->layout;
    if (layout.n < 1 || layout.k != round_up(t.channels, 4))
      plan.refuse(": weights have K = " + std::to_string(layout.k) + ", expected " + std::to_string(round_up(t.channels, 4)));
    if (finish.residual || finish.unit != 1.0f || !finish.start.empty()) plan.refuse(": takes neither residual, unit nor start");
    check_range("bits", bits, 1, 8);
    pixels = int64_t{t.height} * t.width;
    // The sums of codes, what is taken off, and the difference.
    plan.sums(layout.k, bits, 0, weights->encoding, weight_zero, {});
    plan.sums(layout.k, bits, levels(), weights->encoding, weight_zero, {});
    finish.check(plan, {t.height, t.width, layout.n, source});
    largest_scale = largest_magnitude(finish.scale.values.data(), finish.scale.size());
    for (const auto& thresholds : finish.thresholds) {
      if (thresholds) plan.refuse(": takes no thresholds");
    }
    for (const auto& after : finish.after) {
      if (after) plan.refuse(": takes no tables");
    }
    function = row_function(plan, name);
    if (function == RowFunction::layer_norm || function == RowFunction::rms_norm || function == RowFunction::softmax)
      plan.refuse(": '" + name + "' is no function of single elements");
    check_outliers(plan, t.channels);
    choose_kernel(pixels);
    add_columns(t.channels);
    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = layout.n;
    e.macs = pixels * layout.k * layout.n;
    e.a_bits = bits;
    e.w_bits = layout.bits;
    e.whole_batch = !per_row;
    e.weight_bytes = static_cast<int64_t>(weights->data.size() + outlier_weights.values.size() * sizeof(float));
    return e;
  }

  void check_outliers(const Checks& plan, int64_t channels) const {
    const int64_t n = weights->layout.n;
    if (outliers.empty() && outlier_weights.empty()) return;
    if (!per_row) plan.refuse(": outliers go with per_row");
    if (outlier_weights.shape[0] != outliers.size() || outlier_weights.shape[1] != n)
      plan.refuse(": outlier_weights have shape (" + std::to_string(outlier_weights.shape[0]) + ", " +
                  std::to_string(outlier_weights.shape[1]) + "), expected (" + std::to_string(outliers.size()) + ", " + std::to_string(n) +
                  ")");
    for (int64_t i = 0; i < outliers.size(); ++i) {
      if (outliers[i] < 0 || outliers[i] >= channels || (i > 0 && outliers[i] <= outliers[i - 1]))
        plan.refuse(": outliers must be ascending channels below " + std::to_string(channels));
    }
    for (const float w : outlier_weights.values) {
      if (!std::isfinite(w)) plan.refuse(": outlier_weights must be finite");
    }
  }

  int levels() const { return (1 << bits) - 1; }

  void choose_kernel(int64_t rows) {
    const Shape shape{rows, weights->layout.n, weights->layout.k, {bits, false}, weights->encoding, weights->excess};
    kernel = &select_kernel(shape, requested.empty() ? nullptr : requested.c_str());
  }

  int64_t bind(const std::vector<Tensor>&, int64_t group) override {
    choose_kernel(std::min(pixels * group, kRowsAtOnce));
    return 0;
  }

  Problem problem(const uint8_t* codes, int64_t rows) const {
    Problem p;
    p.a = {codes, rows, weights->layout.k, weights->layout.k, 1, false};
    p.a_encoding = {bits, false};
    p.b = weights.get();
    p.b_zero = &weight_zero;
    return p;
  }

  // The sum over each column, but for the rows that pad it, as the product of a row of ones.
  void add_columns(int64_t channels) {
    std::vector<uint8_t> ones(static_cast<size_t>(weights->layout.k + 64));
    std::fill_n(ones.begin(), channels, uint8_t{1});
    column_sums.resize(static_cast<size_t>(weights->layout.n));
    gemm(problem(ones.data(), 1), *kernel, PlainSink(column_sums.data(), weights->layout.n));
  }

  Quantizer quantizer_of(float low, float high) const {
    if (!std::isfinite(low) || !std::isfinite(high)) throw NotFinite(kNotFinite);
    const Quantizer q = Quantizer::of_range(low, high, bits);
    if (!std::isfinite(q.scale * largest_scale)) throw NotFinite("the scale of an activation that is quantized in the call leaves float32");
    return q;
  }

  void run(const Context& c) const override {
    const ImageView<float> from = c.floats({source, 0});
    Quantizer all;
    if (!per_row) {
      float low = 0, high = 0;
      for (int64_t i = 0; i < c.images; ++i) {
        float least, largest;
        c.row_ops.range(from.row(i, 0), c.tensor(source).elements(), &least, &largest);
        low = std::min(low, least);
        high = std::max(high, largest);
      }
      all = quantizer_of(low, high);
    }
    const int64_t k = weights->layout.k, total = pixels * c.images;
    const Output output = finish.output(c);
    thread_local Scratch memory;
    Rows rows{};
    for (rows.first = 0; rows.first < total; rows.first += rows.count) {
      rows.count = std::min(kRowsAtOnce, total - rows.first);
      memory.lay_out(scratch_array(rows.codes, rows.count * k + 64), scratch_array(rows.scales, rows.count),
                     scratch_array(rows.zeros, rows.count), scratch_array(rows.outliers, rows.count * outliers.size()));
      quantize(c, from, rows, all);
      gemm(problem(rows.codes, rows.count), *kernel, RowSink(*this, c, output, rows));
    }
  }

  // Pixels of the group's images, one behind another.
  struct Rows {
    int64_t first, count;
    uint8_t* codes;
    float* scales;
    int32_t* zeros;
    float* outliers;
  };

  // A row without its outliers, which go to `taken`. False if one of them is not finite.
  bool take_outliers(const float* x, int64_t channels, float* rest, float* taken) const {
    std::memcpy(rest, x, static_cast<size_t>(channels) * sizeof(float));
    bool finite = true;
    for (int64_t i = 0; i < outliers.size(); ++i) {
      taken[i] = x[outliers[i]];
      finite &= std::isfinite(taken[i]);
      rest[outliers[i]] = 0.0f;
    }
    return finite;
  }

  void quantize(const Context& c, const ImageView<float>& from, const Rows& rows, const Quantizer& all) const {
    constexpr int64_t kRowsPerTask = 16;
    const int64_t channels = c.tensor(source).channels, k = weights->layout.k;
    Tasks tasks = c.tasks;
    tasks.parallel &= rows.count * k >= int64_t{1} << 16;
    std::atomic<bool> finite{true};
    tasks.run(ceil_div(rows.count, kRowsPerTask), [&](int64_t task) {
      Target to{};
      to.max_code = levels();
      thread_local Scratch memory;
      float* rest;
      memory.lay_out(scratch_array(rest, outliers.empty() ? 0 : channels));
      for (int64_t r = task * kRowsPerTask; r < std::min(rows.count, (task + 1) * kRowsPerTask); ++r) {
        const int64_t at = rows.first + r;
        const float* x = from.row(at / pixels, 0) + at % pixels * channels;  // rows of floats have no gaps
        if (!outliers.empty()) {
          if (!take_outliers(x, channels, rest, rows.outliers + r * outliers.size())) finite.store(false);
          x = rest;
        }
        Quantizer q = all;
        if (per_row) {
          float low, high;
          c.row_ops.range(x, channels, &low, &high);
          q = quantizer_of(low, high);
        }
        rows.scales[r] = q.scale;
        rows.zeros[r] = q.zero;
        to.zero = per_row ? 0 : q.zero;
        to.codes = rows.codes + r * k;
        if (!c.row_ops.quantize(x, channels, to, q.scale, per_row ? static_cast<float>(q.zero) : 0.0f)) finite.store(false);
        std::memset(to.codes + channels, 0, static_cast<size_t>(k - channels));
      }
    });
    if (!finite.load()) throw NotFinite(kNotFinite);
  }

  // Row m of the product is pixel rows.first + m.
  struct RowSink final : Sink {
    RowSink(const DynamicLinearStep& of, const Context& c, const Output& output, const Rows& rows)
        : of_(of), c_(c), output_(output), rows_(rows) {}

    void put(const SumBlock& block) const override {
      RowSums s{};
      s.ld = block.ld;
      s.channels = block.cols;
      s.columns = of_.column_sums.data() + block.n;
      s.scale = of_.finish.scale.values.data() + block.n;
      s.bias = of_.finish.bias.values.data() + block.n;
      s.function = of_.function;
      s.low = output_.low;
      s.high = output_.high;
      s.target_count = output_.target_count;
      s.row_scale = rows_.scales + block.m;
      s.zero = rows_.zeros + block.m;
      s.outlier_count = of_.outliers.size();
      s.outliers = rows_.outliers + block.m * s.outlier_count;
      s.outlier_weights = s.outlier_count == 0 ? nullptr : of_.outlier_weights.values.data() + block.n;
      s.outlier_stride = of_.weights->layout.n;
      s.sums = block.sums;
      const int64_t width = c_.tensor(of_.source).width;
      int64_t image = 0, y = 0, x = rows_.first + block.m;
      if (x + block.rows > width) {  // else it is the only row of the only image
        image = x / of_.pixels;
        y = x % of_.pixels / width;
        x %= width;
      }
      for (int64_t rows = block.rows; rows > 0; rows -= s.rows) {
        s.rows = std::min(rows, width - x);
        put_run(s, image, y, x, block.n);
        s.sums += s.rows * s.ld;
        s.row_scale += s.rows;
        s.zero += s.rows;
        s.outliers += s.rows * s.outlier_count;
        x = 0;
        if (++y * width == of_.pixels) {
          y = 0;
          ++image;
        }
      }
    }

   private:
    // Rows that are pixels of one row of an image.
    void put_run(RowSums& s, int64_t image, int64_t y, int64_t x, int64_t n) const {
      Target targets[kMaxTargets];
      for (int t = 0; t < s.target_count; ++t) {
        targets[t] = output_.targets[t];
        targets[t].pixel = output_.places[t].pixel;
        const int64_t offset = output_.places[t].offset(image, y, x) + n;
        if (targets[t].codes) targets[t].codes += offset;
        if (targets[t].floats) targets[t].floats += offset;
      }
      s.targets = targets;
      c_.row_ops.sums(s);
    }

    const DynamicLinearStep& of_;
    const Context& c_;
    const Output& output_;
    const Rows& rows_;
  };
};

}  // namespace

std::unique_ptr<Step> make_dynamic_linear() { return std::make_unique<DynamicLinearStep>(); }

}  // namespace ulp
