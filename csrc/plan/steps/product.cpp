// Products of two activations, as queries times keys and weights times values:
//
//     out[b][m][n] = scale * sum over k of a[b][m][k] * b[b][k][n]
//
// sizes: batch, rows, depth, columns. steps: where an element lies, as (y, x, c) per step of an index, int32 9 x 3: for a of b, m, k; for b
// of b, k, n; for the target of b, m, n. The target is written as a whole, and n moves along its channels.
//
// Two operands of codes are multiplied exactly: less their zeros they are integers of at most 8 bits and a sign, which float32 adds up
// without rounding to 2^24, and int32 from there on. The value is then float(sum) * scale, where the scale has to hold those of the
// operands; in_units: in units of the target's scale. Codes beside floats are their values.
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "../../gemm/scratch.h"
#include "../../gemm/threads.h"
#include "../matrix_places.h"

namespace ulp {
namespace {

constexpr int kIndices = 9;
constexpr int64_t kChunkRows = 48;  // whose results are finished while they are in the cache
constexpr int64_t kExact = int64_t{1} << 24;

struct ProductStep final : Step {
  Slice a{-1, 0}, b{-1, 0}, target{-1, 0};
  std::array<int, 4> sizes{};
  Windows steps;
  float scale = 1;
  bool in_units = false;

  bool exact = false;
  int64_t block = 0;  // of depth, whose sums are exact in float32

  FieldList fields() override {
    return {{"a", &a}, {"b", &b}, {"target", &target}, {"sizes", &sizes}, {"steps", &steps}, {"scale", &scale}, {"in_units", &in_units}};
  }

  std::string method() const override { return exact ? "integers" : "floats"; }

  Effects check(const Checks& plan) override {
    const Tensor& ta = plan.readable(a, 1);
    const Tensor& tb = plan.readable(b, 1);
    const Tensor& to = plan.tensor(target.tensor);
    for (const int n : sizes) check_range("sizes", n, 1, 1 << 24);
    if (steps.shape != std::array<int64_t, 2>{kIndices, 3}) plan.refuse(": steps must be 9 x 3");
    const auto [batch, rows, depth, columns] = sizes;
    check_places(plan, steps, ta, a.channel, 0, {batch, rows, depth});
    check_places(plan, steps, tb, b.channel, 3, {batch, depth, columns});
    check_places(plan, steps, to, target.channel, 6, {batch, rows, columns});
    if (index_step(steps, 8) != std::array<int, 3>{0, 0, 1}) plan.refuse(": columns must be channels of the target");
    if (target.channel != 0 || !covers(steps, to, 6, {batch, rows, columns})) plan.refuse(": the target is not covered");
    for (const Slice& s : {a, b}) {
      if (s.tensor == target.tensor) plan.refuse(": a tensor that is read cannot be a target");
      plan.readable({s.tensor, 0}, plan.tensor(s.tensor).channels);
    }
    plan.writable({target}, to.channels, to.height, to.width);
    exact = ta.is_codes && tb.is_codes;
    if (in_units && !(exact && to.is_codes)) plan.refuse(": in_units goes with codes only");
    const int64_t largest = exact ? std::max(ta.zero, ta.max_code() - ta.zero) * int64_t{std::max(tb.zero, tb.max_code() - tb.zero)} : 1;
    if (exact && depth * largest > INT32_MAX) plan.refuse(": a sum over " + std::to_string(depth) + " could leave int32");
    if (!std::isfinite(scale) || (exact && !std::isfinite(scale * 2147483648.0f))) plan.refuse(": 2^31 * scale must be finite");
    block = exact ? std::min<int64_t>(depth, kExact / std::max<int64_t>(largest, 1)) : depth;
    Effects e;
    e.reads = {a.tensor, b.tensor};
    e.writes = {target};
    e.channels = to.channels;
    e.macs = int64_t{batch} * rows * depth * columns;
    e.a_bits = ta.is_codes ? ta.bits : 0;
    e.w_bits = tb.is_codes ? tb.bits : 0;
    return e;
  }

  void run(const Context& c) const override {
    Tasks tasks = c.tasks;
    const auto [batch, rows, depth, columns] = sizes;
    tasks.parallel &= int64_t{batch} * rows * depth * columns * c.images >= kParallelMacs;
    std::atomic<bool> numbers{true};
    tasks.run(c.images * batch, [&](int64_t index) {
      if (!run_one(c, index / sizes[0], index % sizes[0])) numbers.store(false);
    });
    if (!numbers.load()) throw NotFinite("a value that is quantized is a NaN");
  }

  // What makes floats of codes: less their zero, or their values.
  auto value_of(const Tensor& t) const {
    return [zero = static_cast<int>(t.zero), factor = exact ? 1.0f : t.scale](uint8_t code) {
      return static_cast<float>(code - zero) * factor;
    };
  }

  void pack_b(const Context& c, int64_t image, int64_t in_batch, float* panels) const {
    const Tensor& t = c.tensor(b.tensor);
    if (t.is_codes) {
      const ImageView<uint8_t> view = c.codes(b);
      const Places places(steps, view, 3);
      pack_panels(view.row(image, 0) + in_batch * places.at[0], places.at[1], places.at[2], sizes[2], sizes[3], panels, value_of(t));
    } else {
      const ImageView<float> view = c.floats(b);
      const Places places(steps, view, 3);
      pack_panels(view.row(image, 0) + in_batch * places.at[0], places.at[1], places.at[2], sizes[2], sizes[3], panels,
                  [](float v) { return v; });
    }
  }

  // The rows x depth codes of a as floats.
  void read_a(const Context& c, int64_t image, int64_t in_batch, float* out) const {
    const ImageView<uint8_t> view = c.codes(a);
    const Places places(steps, view, 0);
    const uint8_t* from = view.row(image, 0) + in_batch * places.at[0];
    const auto value = value_of(c.tensor(a.tensor));
    const int64_t depth = sizes[2], step_k = places.at[2];
    for (int64_t m = 0; m < sizes[1]; ++m, from += places.at[1], out += depth) {
      if (step_k == 1) {
        for (int64_t k = 0; k < depth; ++k) out[k] = value(from[k]);
      } else {
        for (int64_t k = 0; k < depth; ++k) out[k] = value(from[k * step_k]);
      }
    }
  }

  // False if a code was made of a NaN.
  bool run_one(const Context& c, int64_t image, int64_t in_batch) const {
    bool numbers = true;
    const int64_t rows = sizes[1], depth = sizes[2], columns = sizes[3];
    const int64_t padded = round_up(columns, kProductColumns);
    thread_local Scratch memory;
    float *panels, *own_a, *sums, *part;
    int32_t* totals;
    const bool several = block < depth;
    const Tensor& ta = c.tensor(a.tensor);
    memory.lay_out(scratch_array(panels, padded * depth), scratch_array(own_a, ta.is_codes ? rows * depth : 0),
                   scratch_array(sums, kChunkRows * padded), scratch_array(part, several ? kChunkRows * kProductColumns : 0),
                   scratch_array(totals, several ? kChunkRows * padded : 0));
    pack_b(c, image, in_batch, panels);
    FloatProduct p{};
    if (ta.is_codes) {
      read_a(c, image, in_batch, own_a);
      p.a = own_a;
      p.a_row = depth;
      p.a_step = 1;
    } else {
      const ImageView<float> view = c.floats(a);
      const Places places(steps, view, 0);
      p.a = view.row(image, 0) + in_batch * places.at[0];
      p.a_row = places.at[1];
      p.a_step = places.at[2];
    }
    const float* all_a = p.a;
    p.out_row = padded;
    for (int64_t m = 0; m < rows; m += kChunkRows) {
      p.rows = std::min(kChunkRows, rows - m);
      for (int64_t n = 0; n < padded; n += kProductColumns) {
        p.a = all_a + m * p.a_row;
        p.b = panels + n * depth;
        p.depth = depth;
        p.out = sums + n;
        several ? add_blocks(c, p, part, totals + n) : c.row_ops.product(p);
      }
      numbers &= put_rows(c, {target, &steps, 6, columns, scale, in_units}, image, in_batch, m, p.rows, sums, padded);
    }
    return numbers;
  }

  // A product whose depth is cut into blocks that are exact.
  void add_blocks(const Context& c, FloatProduct p, float* part, int32_t* totals) const {
    const int64_t depth = p.depth, row = p.out_row;
    float* const out = p.out;
    p.out = part;
    p.out_row = kProductColumns;
    for (int64_t k = 0; k < depth; k += block) {
      p.depth = std::min(block, depth - k);
      c.row_ops.product(p);
      p.a += p.depth * p.a_step;
      p.b += p.depth * kProductColumns;
      for (int64_t m = 0; m < p.rows; ++m) {
        for (int64_t n = 0; n < kProductColumns; ++n) {
          const int32_t sum = static_cast<int32_t>(part[m * kProductColumns + n]);
          totals[m * row + n] = k == 0 ? sum : totals[m * row + n] + sum;
        }
      }
    }
    for (int64_t m = 0; m < p.rows; ++m) {
      for (int64_t n = 0; n < kProductColumns; ++n) out[m * row + n] = static_cast<float>(totals[m * row + n]);
    }
  }
};

}  // namespace

std::unique_ptr<Step> make_product() { return std::make_unique<ProductStep>(); }

}  // namespace ulp
