// A product of each pixel's channels with weights in groups (gemm/grouped.h):
//
//     target[n] = sum over groups g of (P[g][n] - A[g] * zeros[g][n]) * (scales[g][n] * a_scale[g]) + bias[n]
//
// source: H x W x C floats, which become signed 8-bit codes in the call, of a scale for each pixel, or with per_group for each group of it
// (ops/grouped_floats.h); or codes, whose scale is the tensor's. What a zero point of theirs makes of the weights is one float per column,
// rounded once and added to the bias, in float32. weights: K x N, groups padded to a multiple of 32; target: N channels of floats.
// zero: of all weights, or `zeros`; table: as many integers as the weights have codes, which stand for them.
#include <cmath>

#include "../../ops/grouped_floats.h"
#include "../step.h"

namespace ulp {
namespace {

struct GroupedLinearStep final : Step {
  int source = -1;
  Slice target{-1, 0};
  Weights weights;
  int group = 0;
  Array<float, 2> scales;
  Array<float, 2> zeros;
  int zero = 0;
  Ints table;
  Floats bias;
  bool per_group = false;

  GroupedMatrix matrix{};
  std::vector<float> shift{};  // bias, and what the source's zero point makes

  FieldList fields() override {
    return {
        {"source", &source},     {"target", &target},   {"weights", &weights},   {"group", &group},     {"scales", &scales},
        {"zeros", &zeros, true}, {"zero", &zero, true}, {"table", &table, true}, {"bias", &bias, true}, {"per_group", &per_group, true}};
  }

  std::string method() const override { return grouped_kernel_name(); }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable({source, 0}, plan.tensor(source).channels);
    if (plan.tensor(target.tensor).is_codes) plan.refuse(": the target holds floats");
    if (source == target.tensor) plan.refuse(": the source cannot be the target");
    if (t.is_codes && per_group) plan.refuse(": codes have one scale, per_group is of floats");
    const int64_t n = weights->layout.n;
    const GroupedLayout layout{t.channels, group};
    if (group < 1) plan.refuse(": group = " + std::to_string(group) + ", expected 1 .. " + std::to_string(kMaxGroup));
    check_values(plan, scales, layout.groups(), n, "scales");
    if (!zeros.empty()) check_values(plan, zeros, layout.groups(), n, "zeros");
    if (!bias.empty() && bias.size() != n) {
      plan.refuse(": expected " + std::to_string(n) + " biases, got " + std::to_string(bias.size()));
    }
    for (const float b : bias.values) {
      if (!std::isfinite(b)) plan.refuse(": biases must be finite");
    }
    plan.writable({target}, n, t.height, t.width);
    try {
      matrix = make_grouped(layout, weights, scales.values.data(), zeros.empty() ? nullptr : zeros.values.data(), zero,
                            table.empty() ? nullptr : table.values.data(), table.size());
    } catch (const std::invalid_argument& error) {
      plan.refuse(std::string(": ") + error.what());
    }
    shift = bias.values;
    if (t.is_codes) add_source_zero(t);

    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = n;
    e.macs = int64_t{t.height} * t.width * t.channels * n;
    e.a_bits = t.is_codes ? t.bits : 8;
    e.w_bits = weights->layout.bits;
    e.weight_bytes = matrix.nbytes();
    return e;
  }

  static void check_values(const Checks& plan, const Array<float, 2>& values, int64_t groups, int64_t n, const char* name) {
    if (values.shape[0] == groups && values.shape[1] == n) return;
    plan.refuse(std::string(": ") + name + " have shape (" + std::to_string(values.shape[0]) + ", " + std::to_string(values.shape[1]) +
                "), expected (" + std::to_string(groups) + ", " + std::to_string(n) + ")");
  }

  static int centre(const Tensor& t) { return t.bits == 8 ? 128 : 0; }

  // The kernel multiplies u - centre instead of u - zero: (centre - zero) * scale * sum over k of weights, in float64, is missing.
  void add_source_zero(const Tensor& t) {
    const int64_t n = weights->layout.n;
    const int missing = centre(t) - t.zero;
    if (missing == 0) return;
    std::vector<uint8_t> codes(static_cast<size_t>(weights->layout.k * n));
    unpack(*weights, codes.data());
    std::vector<double> sums(static_cast<size_t>(n));
    const GroupedLayout& layout = matrix.layout;
    for (int64_t k = 0; k < layout.k; ++k) {
      const int64_t g = k / layout.group;
      const uint8_t* row = codes.data() + (g * layout.padded_group() + k % layout.group) * n;
      for (int64_t j = 0; j < n; ++j) {
        const double less = zeros.empty() ? double{1} * zero : double{zeros[g * n + j]};
        const double value = table.empty() ? row[j] - less : table[row[j]];
        sums[static_cast<size_t>(j)] += value * scales[g * n + j];
      }
    }
    shift.resize(static_cast<size_t>(n));
    for (size_t j = 0; j < shift.size(); ++j) shift[j] = static_cast<float>(shift[j] + missing * double{t.scale} * sums[j]);
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    const ImageView<float> to = c.floats(target);
    for_blocks(c, t, [&](int64_t image, int64_t y, int64_t rows) {
      if (t.is_codes) {
        multiply_codes(c, t, image, y, rows, to);
      } else {
        multiply_floats(c, image, y, rows, to);
      }
    });
  }

  // body(image, y, rows) for pixels that lie side by side in source and target: all images, one image or one row of it at a time.
  template <class Body>
  void for_blocks(const Context& c, const Tensor& t, const Body& body) const {
    const ImageStrides from = t.strides, to = c.tensor(target.tensor).strides;
    const int64_t pixels = int64_t{t.height} * t.width;
    const bool rows_meet = t.height == 1 || (from.row == t.width * from.pixel && to.row == t.width * to.pixel);
    const bool images_meet = c.images == 1 || (from.image == pixels * from.pixel && to.image == pixels * to.pixel);
    if (rows_meet && images_meet) return body(0, 0, c.images * pixels);
    for (int64_t i = 0; i < c.images; ++i) {
      if (rows_meet) {
        body(i, 0, pixels);
        continue;
      }
      for (int64_t y = 0; y < t.height; ++y) body(i, y, t.width);
    }
  }

  const float* bias_of() const { return shift.empty() ? nullptr : shift.data(); }

  void multiply_floats(const Context& c, int64_t image, int64_t y, int64_t rows, const ImageView<float>& to) const {
    const ImageView<float> from = c.floats({source, 0});
    GroupedFloats p;
    p.b = &matrix;
    p.x = from.row(image, y);
    p.rows = rows;
    p.x_stride = from.strides.pixel;
    p.per_group = per_group;
    p.bias = bias_of();
    p.out = to.row(image, y);
    p.out_stride = to.strides.pixel;
    if (!grouped_floats(p, c.row_ops)) throw NotFinite("an activation that is quantized in the call holds a NaN or an infinity");
  }

  void multiply_codes(const Context& c, const Tensor& t, int64_t image, int64_t y, int64_t rows, const ImageView<float>& to) const {
    const ImageView<uint8_t> from = c.codes(source);
    GroupedProblem p;
    p.b = &matrix;
    p.a = from.row(image, y);
    p.rows = rows;
    p.a_stride = from.strides.pixel;
    p.centre = centre(t);
    p.a_scales = &t.scale;
    p.bias = bias_of();
    p.out = to.row(image, y);
    p.out_stride = to.strides.pixel;
    grouped(p);
  }
};

}  // namespace

std::unique_ptr<Step> make_grouped_linear() { return std::make_unique<GroupedLinearStep>(); }

}  // namespace ulp
