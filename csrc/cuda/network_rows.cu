// Steps on rows, and products of activations.
#include "cuda/network_rows.cuh"

#include "cuda/network_rows.h"
#include "cuda/network_start.h"

namespace ulp::cuda {
namespace {

void start_rows(const RowsWork& work, Stream stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(work.rows, kWorkThreads / kRowLanes)));
  config.blockDim = dim3(kWorkThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, each_row, work), "starting rows");
}

// A tensor whose images are matrices: `steps` are elements from one of a batch, and from a row of it, to the next.
RowSide side_of(const Run& run, Place p, int64_t group, int64_t row) {
  const NetTensor& t = run.tensor(p.tensor);
  RowSide s;
  s.e = elements_of(run, p);
  s.e.pixel = 1;
  s.image = t.pixels() * t.pixel();
  s.group = group;
  s.row = row;
  return s;
}

struct RowsStep final : DeviceStep {
  RowsFields fields;

  explicit RowsStep(RowsFields given) : fields(std::move(given)) {
    for (const Place& p : fields.operands) reads.push_back(p.tensor);
    for (const Place& p : fields.targets) writes.push_back(p.tensor);
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "rows"; }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.operands[0].tensor);
    RowsWork w{};
    w.rows = run.images * t.pixels() * fields.groups;
    w.groups = Divisor(fields.groups);
    w.image_rows = Divisor(t.pixels());
    w.channels = fields.channels;
    for (const Place& p : fields.operands) {
      const NetTensor& from = run.tensor(p.tensor);
      const bool counts_for_all = fields.groups > 1 && from.channels == fields.channels;
      w.operands[w.operand_count++] = side_of(run, p, counts_for_all ? 0 : fields.channels, from.pixels() == 1 ? 0 : from.pixel());
    }
    for (const Place& p : fields.targets) w.targets[w.target_count++] = side_of(run, p, fields.channels, run.tensor(p.tensor).pixel());
    w.function = fields.function;
    w.gamma = fields.gamma.data();
    w.beta = fields.beta.data();
    w.epsilon = fields.epsilon;
    w.divide = fields.divide;
    w.status = run.status;
    start_rows(w, run.stream);
  }
};

// Rows of a batch, in an image.
struct Batch {
  int64_t batch, rows, columns;
};

// An operand of a product, with its steps in elements: from k to the next, and of the right one from a column to the next.
struct Factor {
  RowSide side;
  int step;
  int column;
};

ProductWork product_of(const Run& run, const Batch& shape, int depth, const Factor& a, const Factor& b, const RowSide& target) {
  ProductWork w{};
  w.count = run.images * shape.batch * shape.rows * shape.columns;
  w.columns = Divisor(shape.columns);
  w.rows = Divisor(shape.rows);
  w.batch = Divisor(shape.batch);
  w.depth = depth;
  w.a = a.side;
  w.a_step = a.step;
  w.b = b.side;
  w.b_step = b.step;
  w.b_column = b.column;
  w.target = target;
  w.scale = 1;
  w.status = run.status;
  return w;
}

struct ProductStep final : DeviceStep {
  ProductFields fields;

  explicit ProductStep(ProductFields given) : fields(given) {
    reads = {fields.a.tensor, fields.b.tensor};
    writes = {fields.target.tensor};
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "product"; }

  void start(const Run& run) const override {
    const auto [batch, rows, depth, columns] = fields.sizes;
    const auto& s = fields.steps;
    ProductWork w = product_of(run, {batch, rows, columns}, depth, {side_of(run, fields.a, s[0], s[1]), s[2], 0},
                               {side_of(run, fields.b, s[3], 0), s[4], s[5]}, side_of(run, fields.target, s[6], s[7]));
    w.exact = w.a.e.codes != nullptr && w.b.e.codes != nullptr;
    w.scale = fields.scale;
    w.divide = !fields.in_units;
    if (fields.in_units) w.target.e.scale = 1;
    start_work(w, run.stream);
  }
};

// What product, rows and product make of it, with scores in scratch memory.
struct AttentionStep final : DeviceStep {
  AttentionFields fields;

  explicit AttentionStep(AttentionFields given) : fields(given) {
    reads = {fields.q.tensor, fields.k.tensor, fields.v.tensor};
    if (fields.mask) reads.push_back(fields.mask->tensor);
    writes = {fields.target.tensor};
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "attention"; }
  int64_t matrix() const { return int64_t{fields.sizes[1]} * fields.sizes[3]; }
  int64_t scratch_bytes() const override { return fields.sizes[0] * matrix() * 4; }
  int64_t elements() const override { return fields.sizes[0] * std::max(matrix(), int64_t{fields.sizes[1]} * fields.values); }

  RowSide scores(const Run& run) const {
    RowSide s;
    s.e.floats = reinterpret_cast<float*>(run.scratch);
    s.e.pixel = 1;
    s.image = fields.sizes[0] * matrix();
    s.group = matrix();
    s.row = fields.sizes[3];
    return s;
  }

  void start(const Run& run) const override {
    const auto [batch, rows, depth, columns] = fields.sizes;
    const auto& s = fields.steps;
    start_work(product_of(run, {batch, rows, columns}, depth, {side_of(run, fields.q, s[0], s[1]), s[2], 0},
                          {side_of(run, fields.k, s[3], 0), s[4], s[5]}, scores(run)),
               run.stream);
    soften(run);
    ProductWork w = product_of(run, {batch, rows, fields.values}, columns, {scores(run), 1, 0},
                               {side_of(run, fields.v, s[6], 0), s[7], s[8]}, side_of(run, fields.target, s[9], s[10]));
    w.divide = true;
    start_work(w, run.stream);
  }

  void soften(const Run& run) const {
    const auto [batch, rows, depth, columns] = fields.sizes;
    RowsWork w{};
    w.rows = run.images * batch * rows;
    w.groups = Divisor(batch);
    w.image_rows = Divisor(rows);
    w.channels = columns;
    w.operands[w.operand_count++] = scores(run);
    w.operands[0].factor = fields.scale;
    if (fields.mask) {
      const NetTensor& t = run.tensor(fields.mask->tensor);
      w.operands[w.operand_count++] = side_of(run, *fields.mask, t.channels == columns ? 0 : columns, t.width == 1 ? 0 : t.pixel());
    }
    w.targets[w.target_count++] = scores(run);
    w.function = RowFunction::softmax;
    w.status = run.status;
    start_rows(w, run.stream);
  }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(RowsFields fields, const Place2D&) { return std::make_unique<RowsStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(ProductFields fields, const Place2D&) { return std::make_unique<ProductStep>(fields); }
std::unique_ptr<DeviceStep> make_step(AttentionFields fields, const Place2D&) { return std::make_unique<AttentionStep>(fields); }

}  // namespace ulp::cuda
