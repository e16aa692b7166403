// A product of floats with weights, whose codes are made in the call:
//
//     scale = (high - low) / 255, zero = rint(-low / scale)        low, high: least and largest of the values and 0
//     u = clamp(rint(x / scale) + zero, 0, 255)
//     out[n] = float(sum over c of (u[c] - zero) * (w[c][n] - weight_zero)) * (scale * weight_scale[n]) + bias[n]
//
// as ONNX's DynamicQuantizeLinear and MatMulInteger define it, each operation rounded to float32. source: H x W x C floats; one
// scale is for all images of the call, or with per_row one for a pixel; target: H x W x N, 1 to 4 targets; the weights are packed, K = C
// padded to a multiple of 4 (of 32: K is not padded further). kernel: empty, or a kernel's name.
#include <atomic>
#include <cmath>
#include <cstring>

#include "../../gemm/gemm.h"
#include "../../gemm/scratch.h"
#include "../../ops/finish_sink.h"
#include "../finish_spec.h"
#include "../row_work.h"

namespace ulp {
namespace {

constexpr int kBits = 8;
constexpr char kNotFinite[] = "an activation that is quantized in the call holds a NaN or an infinity";

struct DynamicLinearStep final : Step {
  int source = -1;
  Weights weights;
  int32_t weight_zero = 0;
  bool per_row = false;
  FinishSpec finish;  // its scale is the weights'
  std::string requested{};

  const Kernel* kernel = nullptr;
  int64_t rows = 0;  // of an image
  float largest_bias = 0;

  FieldList fields() override {
    return {{"source", &source},   {"weights", &weights}, {"weight_zero", &weight_zero},
            {"per_row", &per_row}, {"finish", &finish},   {"kernel", &requested}};
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
    rows = int64_t{t.height} * t.width;
    plan.sums(layout.k, kBits, 0, weights->encoding, weight_zero, {});
    plan.sums(layout.k, kBits, 255, weights->encoding, weight_zero, {});
    finish.check(plan, {t.height, t.width, layout.n, source});
    largest_bias = largest_magnitude(finish.bias.values.data(), finish.bias.size());
    for (const auto& thresholds : finish.thresholds) {
      if (thresholds) plan.refuse(": takes no thresholds");
    }
    choose_kernel(rows);
    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = layout.n;
    e.macs = rows * layout.k * layout.n;
    e.a_bits = kBits;
    e.w_bits = layout.bits;
    e.whole_batch = !per_row;
    e.weight_bytes = static_cast<int64_t>(weights->data.size());
    return e;
  }

  void choose_kernel(int64_t count) {
    const Shape shape{count, weights->layout.n, weights->layout.k, {kBits, false}, weights->encoding, weights->excess};
    kernel = &select_kernel(shape, requested.empty() ? nullptr : requested.c_str());
  }

  int64_t bind(const std::vector<Tensor>&, int64_t) override {
    choose_kernel(rows);
    return 0;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    float low = 0, high = 0;
    for (int64_t i = 0; i < c.images && !per_row; ++i) {
      float least, largest;
      c.row_ops.range(c.floats({source, 0}).row(i, 0), t.elements(), &least, &largest);
      low = std::min(low, least);
      high = std::max(high, largest);
    }
    const Quantizer all = quantizer_of(low, high);
    for (int64_t i = 0; i < c.images; ++i) run_image(c, i, all);
  }

  struct Quantizer {
    float scale;
    int zero;
  };

  static Quantizer quantizer_of(float low, float high) {
    if (!std::isfinite(low) || !std::isfinite(high)) throw NotFinite(kNotFinite);  // infinity / infinity is no zero
    const float scale = (high - low) / 255.0f;
    if (scale == 0) return {1.0f, 0};  // all values are 0
    const float zero = std::nearbyint(0.0f - low / scale);
    return {scale, static_cast<int>(std::min(std::max(zero, 0.0f), 255.0f))};
  }

  void run_image(const Context& c, int64_t i, const Quantizer& all) const {
    const Tensor& t = c.tensor(source);
    const ImageView<float> from = c.floats({source, 0});
    const int64_t k = weights->layout.k, n = weights->layout.n;
    const int64_t count = int64_t{t.height} * t.width;
    thread_local Scratch memory;
    uint8_t* codes;
    float* scales;
    memory.lay_out(scratch_array(codes, count * k + 64), scratch_array(scales, n));
    const float* x = from.row(i, 0);  // rows of floats have no gaps
    if (!per_row) {
      quantize(c, x, count, all, codes);
      multiply(c, i, 0, count, codes, all, scales);
      return;
    }
    for (int64_t row = 0; row < count; ++row) {
      float low, high;
      c.row_ops.range(x + row * t.channels, t.channels, &low, &high);
      const Quantizer q = quantizer_of(low, high);
      quantize(c, x + row * t.channels, 1, q, codes);
      multiply(c, i, row, 1, codes, q, scales);
    }
  }

  void quantize(const Context& c, const float* x, int64_t count, const Quantizer& q, uint8_t* codes) const {
    const int64_t channels = c.tensor(source).channels, k = weights->layout.k;
    Target to{};
    to.zero = q.zero;
    to.max_code = 255;
    bool finite = true;
    if (channels == k) {
      to.codes = codes;
      finite = c.row_ops.quantize(x, count * k, to, q.scale);
    } else {
      std::memset(codes, q.zero, static_cast<size_t>(count * k));
      for (int64_t row = 0; row < count; ++row) {
        to.codes = codes + row * k;
        finite &= c.row_ops.quantize(x + row * channels, channels, to, q.scale);
      }
    }
    if (!finite) throw NotFinite(kNotFinite);
  }

  void multiply(const Context& c, int64_t image, int64_t first, int64_t count, const uint8_t* codes, const Quantizer& q,
                float* scales) const {
    Problem p;
    p.a = {codes, count, weights->layout.k, weights->layout.k, 1, false};
    p.a_encoding = {kBits, false};
    p.a_zero = q.zero;
    p.b = weights.get();
    p.b_zero = &weight_zero;
    for (int64_t j = 0; j < weights->layout.n; ++j) scales[j] = q.scale * finish.scale[j];
    // How far values reach is known only now: the plan's check took the scales to be those of the weights alone.
    const float largest = largest_magnitude(scales, weights->layout.n);
    if (!std::isfinite(largest)) throw NotFinite("the scale of an activation that is quantized in the call leaves float32");
    const ValueReach reach{largest, largest_bias};
    Output output = finish.output(c);
    output.scale = scales;
    for (size_t j = 0; j < finish.targets.size(); ++j) output.targets[j].fits_int32 &= reach.fits_int32(output.targets[j].inverse);
    gemm(p, *kernel, RowSink(output, image, c.tensor(source).width, first));
  }

  // Row m of the product is pixel first + m of the image.
  struct RowSink final : Sink {
    RowSink(const Output& output, int64_t image, int64_t width, int64_t first) : inner_(output, image, width), first_(first) {}
    void put(const SumBlock& block) const override {
      SumBlock moved = block;
      moved.m += first_;
      inner_.put(moved);
    }

   private:
    FinishSink inner_;
    int64_t first_;
  };
};

}  // namespace

std::unique_ptr<Step> make_dynamic_linear() { return std::make_unique<DynamicLinearStep>(); }

}  // namespace ulp
