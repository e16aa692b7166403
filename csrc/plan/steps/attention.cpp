// Attention of floats, for each head of a batch:
//
//     out[b][m][j] = sum over n of softmax over n (scale * sum over k of q[b][m][k] * k[b][k][n] + mask[b][m][n]) * v[b][n][j]
//
// which is what `product`, `rows` and `product` make of it, bit for bit, without scores that leave the cache. sizes: batch, rows, depth,
// columns; values: how many j. steps: where an element lies, as (y, x, c) per step of an index, int32 12 x 3: of q for b, m, k; of k for b,
// k, n; of v for b, n, j; of the target for b, m, j; the target is written as a whole, and j moves along its channels. mask: batch x
// columns channels, or `columns`, which count for all heads; a pixel per row, or one for all.
#include <atomic>
#include <cmath>

#include "../../gemm/scratch.h"
#include "../../gemm/threads.h"
#include "../matrix_places.h"

namespace ulp {
namespace {

constexpr int64_t kScoreRows = 24;  // whose scores are in the first cache; whole tiles of every ISA

struct AttentionStep final : Step {
  Slice q{-1, 0}, k{-1, 0}, v{-1, 0}, target{-1, 0};
  std::optional<Slice> mask;
  std::array<int, 4> sizes{};
  int values = 0;
  Windows steps;
  float scale = 1;

  FieldList fields() override {
    return {{"q", &q},         {"k", &k},           {"v", &v},         {"mask", &mask},  {"target", &target},
            {"sizes", &sizes}, {"values", &values}, {"steps", &steps}, {"scale", &scale}};
  }

  std::string method() const override { return "floats"; }

  Effects check(const Checks& plan) override {
    const Tensor& to = plan.tensor(target.tensor);
    for (const int n : sizes) check_range("sizes", n, 1, 1 << 24);
    check_range("values", values, 1, 1 << 24);
    if (steps.shape != std::array<int64_t, 2>{12, 3}) plan.refuse(": steps must be 12 x 3");
    const auto [batch, rows, depth, columns] = sizes;
    operand(plan, q, 0, {batch, rows, depth});
    operand(plan, k, 3, {batch, depth, columns});
    operand(plan, v, 6, {batch, columns, values});
    check_places(plan, steps, to, target.channel, 9, {batch, rows, values});
    if (index_step(steps, 11) != std::array<int, 3>{0, 0, 1}) plan.refuse(": columns must be channels of the target");
    if (target.channel != 0 || !covers(steps, to, 9, {batch, rows, values})) plan.refuse(": the target is not covered");
    plan.writable({target}, to.channels, to.height, to.width);
    if (!std::isfinite(scale)) plan.refuse(": scale must be finite");
    Effects e;
    e.reads = {q.tensor, k.tensor, v.tensor};
    if (mask) {
      const Tensor& t = plan.readable(*mask, plan.tensor(mask->tensor).channels == columns ? columns : batch * columns);
      if (t.height != 1 || (t.width != 1 && t.width != rows)) plan.refuse(": a mask has one pixel, or one per row");
      if (mask->tensor == target.tensor) plan.refuse(": a tensor that is read cannot be a target");
      e.reads.push_back(mask->tensor);
    }
    e.writes = {target};
    e.channels = to.channels;
    e.macs = int64_t{batch} * rows * columns * (int64_t{depth} + values);
    return e;
  }

  void operand(const Checks& plan, const Slice& s, int first, const std::array<int, 3>& counts) const {
    const Tensor& t = plan.readable(s, 1);
    if (t.is_codes) plan.refuse(": q, k and v hold floats");
    if (s.tensor == target.tensor) plan.refuse(": a tensor that is read cannot be a target");
    check_places(plan, steps, t, s.channel, first, counts);
    plan.readable({s.tensor, 0}, t.channels);
  }

  void run(const Context& c) const override {
    const auto [batch, rows, depth, columns] = sizes;
    Tasks tasks = c.tasks;
    tasks.parallel &= int64_t{batch} * rows * columns * (depth + values) * c.images >= kParallelMacs;
    std::atomic<bool> numbers{true};
    tasks.run(c.images * batch, [&](int64_t index) {
      if (!run_one(c, index / sizes[0], index % sizes[0])) numbers.store(false);
    });
    if (!numbers.load()) throw NotFinite("a value that is quantized is a NaN");
  }

  // A matrix of the batch: its first element, and elements from one to the next along both indices.
  struct Matrix {
    const float* data;
    int64_t by_first, by_second;
  };

  Matrix matrix(const Context& c, const Slice& s, int first, int64_t image, int64_t in_batch) const {
    const ImageView<float> view = c.floats(s);
    const Places places(steps, view, first);
    return {view.row(image, 0) + in_batch * places.at[0], places.at[1], places.at[2]};
  }

  // False if a code was made of a NaN.
  bool run_one(const Context& c, int64_t image, int64_t in_batch) const {
    const auto same = [](float value) { return value; };
    const int64_t rows = sizes[1], depth = sizes[2], columns = sizes[3];
    const int64_t padded = round_up(columns, kProductColumns), padded_values = round_up(values, kProductColumns);
    thread_local Scratch memory;
    float *keys, *mixed, *scores, *sums, *buffer;
    memory.lay_out(scratch_array(keys, padded * depth), scratch_array(mixed, padded_values * columns),
                   scratch_array(scores, kScoreRows * padded), scratch_array(sums, kScoreRows * padded_values),
                   scratch_array(buffer, padded));
    const Matrix of_q = matrix(c, q, 0, image, in_batch), of_k = matrix(c, k, 3, image, in_batch), of_v = matrix(c, v, 6, image, in_batch);
    pack_panels(of_k.data, of_k.by_first, of_k.by_second, depth, columns, keys, same);
    pack_panels(of_v.data, of_v.by_first, of_v.by_second, columns, values, mixed, same);
    bool numbers = true;
    for (int64_t m = 0; m < rows; m += kScoreRows) {
      const int64_t count = std::min(kScoreRows, rows - m);
      multiply(c, {of_q.data + m * of_q.by_first, of_q.by_first, of_q.by_second, keys, count, depth, scores, padded}, padded);
      soften(c, image, in_batch, m, count, scores, padded, buffer);
      multiply(c, {scores, padded, 1, mixed, count, columns, sums, padded_values}, padded_values);
      numbers &= put_rows(c, {target, &steps, 9, values, 1.0f, false}, image, in_batch, m, count, sums, padded_values);
    }
    return numbers;
  }

  static void multiply(const Context& c, FloatProduct p, int64_t columns) {
    for (int64_t n = 0; n < columns; n += kProductColumns, p.b += p.depth * kProductColumns, p.out += kProductColumns) c.row_ops.product(p);
  }

  // Softmax of rows of scores, in place.
  void soften(const Context& c, int64_t image, int64_t in_batch, int64_t m, int64_t count, float* scores, int64_t padded,
              float* buffer) const {
    RowWork w{};
    w.operands[0].floats = scores;
    w.operands[0].pixel = padded;
    w.operands[0].scale = scale;
    w.operand_count = 1;
    if (mask) {
      const Tensor& t = c.tensor(mask->tensor);
      const int64_t head = t.channels == sizes[3] ? 0 : in_batch * sizes[3];
      w.operands[1] = operand_at(c, {mask->tensor, mask->channel + static_cast<int>(head)}, image, 0, t.width == 1 ? 0 : m);
      w.operand_count = 2;
    }
    Target to{};
    to.floats = scores;
    to.pixel = padded;
    w.rows = count;
    w.groups = 1;
    w.channels = sizes[3];
    w.function = RowFunction::softmax;
    w.buffer = buffer;
    w.targets = &to;
    w.target_count = 1;
    c.row_ops.rows(w);
  }
};

}  // namespace

std::unique_ptr<Step> make_attention() { return std::make_unique<AttentionStep>(); }

}  // namespace ulp
