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
#include "../row_work.h"

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
    check_places(plan, ta, a.channel, 0, {batch, rows, depth});
    check_places(plan, tb, b.channel, 3, {batch, depth, columns});
    check_places(plan, to, target.channel, 6, {batch, rows, columns});
    if (step(8) != std::array<int, 3>{0, 0, 1}) plan.refuse(": columns must be channels of the target");
    if (target.channel != 0 || !covers(to)) plan.refuse(": the target is not covered");
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

  std::array<int, 3> step(int index) const { return {steps[3 * index], steps[3 * index + 1], steps[3 * index + 2]}; }

  // No index leaves the image.
  void check_places(const Checks& plan, const Tensor& t, int channel, int first, const std::array<int, 3>& counts) const {
    std::array<int64_t, 3> last{0, 0, channel};
    for (int i = 0; i < 3; ++i) {
      for (size_t side = 0; side < 3; ++side) {
        const int n = step(first + i)[side];
        if (n < 0) plan.refuse(": steps must not be negative");
        last[side] += int64_t{n} * (counts[static_cast<size_t>(i)] - 1);
      }
      // Only a batch may be the same matrix again and again.
      if (i > 0 && counts[static_cast<size_t>(i)] > 1 && step(first + i) == std::array<int, 3>{}) plan.refuse(": a step is 0");
    }
    if (last[0] >= t.height || last[1] >= t.width || last[2] >= t.channels) plan.refuse(": its indices leave a tensor");
  }

  // Whether no two indices of the target are one place: in the order of their strides, each step passes over all that lie below it.
  bool covers(const Tensor& t) const {
    std::array<std::pair<int64_t, int64_t>, 3> strides;
    for (size_t i = 0; i < 3; ++i) {
      const auto s = step(6 + static_cast<int>(i));
      const size_t of_sizes[] = {0, 1, 3};
      strides[i] = {(int64_t{s[0]} * t.width + s[1]) * t.channels + s[2], sizes[of_sizes[i]]};
    }
    std::sort(strides.begin(), strides.end());
    int64_t below = 1;
    for (const auto& [stride, count] : strides) {
      if (count == 1) continue;
      if (stride != below) return false;  // below is at most the elements of the tensor, for no index leaves it
      below *= count;
    }
    return below == t.elements();
  }

  // Where the elements of a slice lie in memory, in elements from its first.
  struct Places {
    int64_t at[3];

    template <class T>
    Places(const ProductStep& p, const ImageView<T>& view, int first) {
      for (int i = 0; i < 3; ++i) {
        const auto s = p.step(first + i);
        at[i] = view.strides.offset(0, s[0], s[1]) + s[2];
      }
    }
  };

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

  // The depth x columns elements of b at `from` as panels of 16 columns: `value` makes floats of them.
  template <class T, class Value>
  void pack_panels(const T* from, int64_t by_k, int64_t by_n, float* panels, const Value& value) const {
    const int64_t depth = sizes[2], columns = sizes[3];
    for (int64_t n = 0; n < columns; n += kProductColumns, panels += depth * kProductColumns, from += kProductColumns * by_n) {
      const int64_t count = std::min<int64_t>(kProductColumns, columns - n);
      if (count < kProductColumns) std::memset(panels, 0, static_cast<size_t>(depth * kProductColumns) * sizeof(float));
      if (by_n == 1) {
        for (int64_t k = 0; k < depth; ++k) {
          for (int64_t j = 0; j < count; ++j) panels[k * kProductColumns + j] = value(from[k * by_k + j]);
        }
      } else {
        for (int64_t j = 0; j < count; ++j) {
          for (int64_t k = 0; k < depth; ++k) panels[k * kProductColumns + j] = value(from[k * by_k + j * by_n]);
        }
      }
    }
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
      const Places places(*this, view, 3);
      pack_panels(view.row(image, 0) + in_batch * places.at[0], places.at[1], places.at[2], panels, value_of(t));
    } else {
      const ImageView<float> view = c.floats(b);
      const Places places(*this, view, 3);
      pack_panels(view.row(image, 0) + in_batch * places.at[0], places.at[1], places.at[2], panels, [](float v) { return v; });
    }
  }

  // The rows x depth codes of a as floats.
  void read_a(const Context& c, int64_t image, int64_t in_batch, float* out) const {
    const ImageView<uint8_t> view = c.codes(a);
    const Places places(*this, view, 0);
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
      const Places places(*this, view, 0);
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
      numbers &= finish(c, image, in_batch, m, p.rows, sums, padded);
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

  bool finish(const Context& c, int64_t image, int64_t in_batch, int64_t m, int64_t count, const float* sums, int64_t row) const {
    const Tensor& t = c.tensor(target.tensor);
    Target to = target_at(c, target, image, 0, 0);
    const ImageStrides strides = t.is_codes ? c.codes(target).strides : c.floats(target).strides;
    const auto of_batch = step(6), of_rows = step(7);
    to.pixel = strides.offset(0, of_rows[0], of_rows[1]) + of_rows[2];
    const int64_t at = in_batch * (strides.offset(0, of_batch[0], of_batch[1]) + of_batch[2]) + m * to.pixel;
    if (to.codes) {
      to.codes += at;
    } else {
      to.floats += at;
    }
    if (in_units) to.inverse = 1.0f;
    RowWork w{};
    w.operands[0].floats = sums;
    w.operands[0].pixel = row;
    w.operands[0].scale = scale;
    w.operand_count = 1;
    w.rows = count;
    w.groups = 1;
    w.channels = sizes[3];
    w.function = RowFunction::identity;
    w.targets = &to;
    const float divisor = t.scale;
    w.divisors = to.codes && !in_units ? &divisor : nullptr;
    w.target_count = 1;
    return c.row_ops.rows(w);
  }
};

}  // namespace

std::unique_ptr<Step> make_product() { return std::make_unique<ProductStep>(); }

}  // namespace ulp
