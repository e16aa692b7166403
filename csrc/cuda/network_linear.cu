// Layers whose activations become codes in the call: dynamic_linear, and weights in groups.
#include "cuda/network_grouped.cuh"
#include "cuda/network_linear.h"

namespace ulp::cuda {
namespace {

struct DynamicLinearStep final : DeviceStep {
  DynamicLinearFields fields;
  NetTensor source;
  Machine machine;

  DynamicLinearStep(DynamicLinearFields given, const Place2D& at)
      : fields(std::move(given)), source(at.tensor(fields.source)), machine(machine_of(at.device)) {
    reads = {fields.source};
    for (const Place& p : fields.targets) writes.push_back(p.tensor);
    static_cast<void>(choice(1));  // refuses a kernel that cannot run
  }

  int64_t pixels() const { return source.pixels(); }
  int64_t n() const { return fields.product.weights->n; }
  int64_t stride() const { return round_up(source.channels, 16); }
  CodeRows rows(const unsigned char* codes, int64_t images) const { return {codes, images * pixels(), stride(), fields.bits}; }
  Choice choice(int64_t images) const {
    return pick(situation_of(fields.product, rows(nullptr, images)), machine, fields.kernel.empty() ? nullptr : fields.kernel.c_str());
  }

  std::string method(int64_t images, const std::vector<NetTensor>&) const override { return choice(images).kernel; }
  int64_t workspace_bytes(int64_t images) const override { return choice(images).workspace_bytes; }
  int64_t elements() const override { return pixels() * n(); }
  int64_t scratch_bytes() const override {
    using Parts = ScratchParts;
    return Parts::bytes<unsigned char>(pixels() * stride()) + Parts::bytes<int>(pixels() * n()) + Parts::bytes<float>(pixels()) +
           Parts::bytes<int>(pixels()) + Parts::bytes<int>(2);
  }

  void start(const Run& run) const override {
    ScratchParts parts(run.scratch, run.images);
    RowCodesWork codes{};
    codes.codes = parts.take<unsigned char>(pixels() * stride());
    int* sums = parts.take<int>(pixels() * n());
    codes.scales = parts.take<float>(pixels());
    codes.zeros = parts.take<int>(pixels());
    int* slots = parts.take<int>(2);
    codes.rows = run.images * pixels();
    codes.x = reinterpret_cast<const float*>(run.data({fields.source, 0}));
    codes.count = source.channels;
    codes.zeroed = fields.zeroed.data();
    codes.stride = static_cast<int>(stride());
    codes.bits = fields.bits;
    codes.shifted = fields.per_row;
    codes.limit = {fields.largest_scale, 1.0f, 0.0f};
    codes.lengths.time = static_cast<int>(pixels());
    codes.time = Divisor(pixels());
    codes.status = run.status;
    if (!fields.per_row) {
      RangeWork range{};
      range.count = kRangeThreads;
      range.x = codes.x;
      range.slot_elements = codes.rows * codes.count;
      range.slots = slots;
      start_ranges(range, 1, run.stream);
      codes.slots = slots;
      codes.rows_per_slot = Divisor(codes.rows);
    }
    start_row_codes(codes, run.stream);
    start_product(fields.product, rows(codes.codes, run.images), fields.kernel, sums, run);
    RowSumsWork w{};
    w.count = codes.rows * n();
    w.columns = Divisor(n());
    w.sums = sums;
    w.row_scales = codes.scales;
    w.row_zeros = codes.zeros;
    w.column_sums = fields.product.columns.data();
    w.scale = fields.scale.data();
    w.bias = fields.bias.data();
    w.x = codes.x;
    w.x_row = codes.count;
    w.outlier_count = fields.outlier_count;
    w.outliers = fields.outliers.data();
    w.outlier_weights = fields.outlier_weights.data();
    w.function = fields.function;
    w.low = fields.low;
    w.high = fields.high;
    for (const Place& p : fields.targets) w.targets[w.target_count++] = elements_of(run, p);
    w.status = run.status;
    start_work(w, run.stream);
  }
};

struct GroupedStep final : DeviceStep {
  GroupedFields fields;
  int64_t pixels;
  DeviceGroups groups;

  GroupedStep(GroupedFields given, const Place2D& at) : fields(std::move(given)), pixels(at.tensor(fields.source).pixels()) {
    reads = {fields.source};
    writes = {fields.target.tensor};
    groups.k = fields.k;
    groups.group = fields.group;
    groups.padded = static_cast<int>(round_up(fields.group, 8));
    groups.count = static_cast<int>(ceil_div(fields.k, fields.group));
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "grouped"; }
  int64_t row_bytes() const { return int64_t{groups.count} * groups.padded; }
  int64_t parts_of_row() const { return fields.per_group ? groups.count : 1; }
  int64_t elements() const override { return pixels * std::max<int64_t>(fields.n, parts_of_row()); }
  int64_t scratch_bytes() const override {
    return ScratchParts::bytes<signed char>(pixels * row_bytes()) + ScratchParts::bytes<float>(pixels * parts_of_row());
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    ScratchParts parts(run.scratch, run.images);
    GroupBytesWork a{};
    a.bytes = parts.take<signed char>(pixels * row_bytes());
    a.scales = parts.take<float>(pixels * parts_of_row());
    a.parts = run.images * pixels * parts_of_row();
    a.parts_of_row = Divisor(parts_of_row());
    a.groups = groups;
    a.part = fields.per_group ? fields.group : fields.k;
    const unsigned char* from = run.data({fields.source, 0});
    a.floats = t.is_codes ? nullptr : reinterpret_cast<const float*>(from);
    a.codes = t.is_codes ? from : nullptr;
    a.pixel = t.pixel();
    a.centre = fields.centre;
    a.status = run.status;
    cudaStream_t stream = static_cast<cudaStream_t>(run.stream);
    check(cudaMemsetAsync(a.bytes, 0, static_cast<size_t>(run.images * pixels * row_bytes()), stream), "filling groups");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(ceil_div(a.parts, kWorkThreads / kRowLanes)));
    config.blockDim = dim3(kWorkThreads);
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, each_part_to_bytes, a), "quantizing groups");

    const Elements to = elements_of(run, fields.target);
    GroupedWork w{};
    w.count = run.images * pixels * fields.n;
    w.columns = Divisor(fields.n);
    w.groups = groups;
    w.nibbles = fields.nibbles;
    w.words = fields.words.data();
    w.bytes = reinterpret_cast<const int*>(a.bytes);
    w.table = fields.table.data();
    w.scales = fields.scales.data();
    w.zeros = fields.zeros.data();
    w.zero = fields.zero;
    w.row_scales = t.is_codes ? nullptr : a.scales;
    w.row_scale = t.scale;
    w.scales_of_row = static_cast<int>(parts_of_row());
    w.group_scale = fields.per_group ? 1 : 0;
    w.bias = fields.bias.data();
    w.out = to.floats;
    w.out_pixel = to.pixel;
    start_work(w, run.stream);
  }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(DynamicLinearFields fields, const Place2D& at) {
  return std::make_unique<DynamicLinearStep>(std::move(fields), at);
}
std::unique_ptr<DeviceStep> make_step(GroupedFields fields, const Place2D& at) {
  return std::make_unique<GroupedStep>(std::move(fields), at);
}

}  // namespace ulp::cuda
