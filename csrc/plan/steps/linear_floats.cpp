// A matrix product of images of floats as rows: a small last layer that nobody quantized.
//
//     target[n] = (0 + a[0] * w[0][n] + a[1] * w[1][n] + ...) + bias[n]      each operation rounded to float32, in this order
//
// source: H x W x C floats; weights: K x N, rows in the order (y, x, c), K = H * W * C; target: N channels of a tensor of 1 x 1 pixels.
// All N columns are summed side by side, so the order holds on every ISA without a loss of speed.
#include <algorithm>
#include <cmath>

#include "../step.h"

namespace ulp {
namespace {

// Columns that are summed at a time: as many as the registers of any ISA hold. The last ones are padded to a multiple of 4.
constexpr int64_t kColumns = 16;

template <int columns>
void sum_columns(const float* a, int64_t k, const float* w, float* sums) {
  float acc[columns] = {};
  for (int64_t i = 0; i < k; ++i, w += columns) {
    for (int j = 0; j < columns; ++j) acc[j] += a[i] * w[j];
  }
  std::copy(acc, acc + columns, sums);
}

struct LinearFloatsStep final : Step {
  int source = -1;
  Slice target{-1, 0};
  Array<float, 2> weights;
  Floats bias;

  std::vector<float> panels{};  // kColumns columns of the weights after another
  int64_t k = 0, n = 0;

  FieldList fields() override { return {{"source", &source}, {"target", &target}, {"weights", &weights}, {"bias", &bias}}; }

  std::string method() const override { return "float32"; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable({source, 0}, plan.tensor(source).channels);
    if (t.is_codes || plan.tensor(target.tensor).is_codes) plan.refuse(": source and target hold floats");
    if (source == target.tensor) plan.refuse(": the source cannot be the target");
    k = t.elements();
    n = weights.shape[1];
    if (weights.shape[0] != k || n < 1) {
      plan.refuse(": weights have shape (" + std::to_string(weights.shape[0]) + ", " + std::to_string(n) + "), expected (" +
                  std::to_string(k) + ", 1 or more)");
    }
    if (bias.size() != n) plan.refuse(": expected " + std::to_string(n) + " biases, got " + std::to_string(bias.size()));
    plan.writable({target}, n, 1, 1);
    const auto finite = [](float v) { return std::isfinite(v); };
    if (!std::all_of(weights.values.begin(), weights.values.end(), finite) || !std::all_of(bias.values.begin(), bias.values.end(), finite))
      plan.refuse(": weights and biases must be finite");
    make_panels();

    Effects e;
    e.reads = {source};
    e.writes = {target};
    e.channels = n;
    e.macs = k * n;
    e.weight_bytes = (weights.size() + n) * 4;
    return e;
  }

  int64_t width(int64_t first) const { return std::min(kColumns, round_up(n - first, 4)); }

  void make_panels() {
    panels.clear();
    for (int64_t first = 0; first < n; first += kColumns) {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = first; j < first + width(first); ++j) panels.push_back(j < n ? weights[i * n + j] : 0.0f);
      }
    }
  }

  void run(const Context& c) const override {
    const ImageView<float> from = c.floats({source, 0});
    const ImageView<float> to = c.floats(target);
    for_rows(c, 1, k * n, [&](int64_t i, int64_t, int64_t) {
      const float* a = from.row(i, 0);  // floats lie without gaps: an image is a row of k
      float* out = to.row(i, 0);
      const float* w = panels.data();
      float sums[kColumns];
      for (int64_t first = 0; first < n; first += kColumns) {
        switch (width(first)) {
          case 4:
            sum_columns<4>(a, k, w, sums);
            break;
          case 8:
            sum_columns<8>(a, k, w, sums);
            break;
          case 12:
            sum_columns<12>(a, k, w, sums);
            break;
          default:
            sum_columns<16>(a, k, w, sums);
        }
        w += k * width(first);
        for (int64_t j = first; j < std::min(n, first + kColumns); ++j) out[j] = sums[j - first] + bias[j];
      }
    });
  }
};

}  // namespace

std::unique_ptr<Step> make_linear_floats() { return std::make_unique<LinearFloatsStep>(); }

}  // namespace ulp
