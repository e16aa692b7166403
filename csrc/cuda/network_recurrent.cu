// LSTM and GRU.
#include "cuda/network_recurrent.cuh"

#include "cuda/network_linear.h"

namespace ulp::cuda {
namespace {

struct RecurrentStep final : DeviceStep {
  RecurrentFields fields;
  NetTensor source;
  Machine machine;

  RecurrentStep(RecurrentFields given, const Place2D& at)
      : fields(std::move(given)), source(at.tensor(fields.source)), machine(machine_of(at.device)) {
    reads = {fields.source};
    for (const auto& p : {fields.first_hidden, fields.first_cell, fields.lengths}) {
      if (p) reads.push_back(p->tensor);
    }
    for (const Place& p : fields.targets) writes.push_back(p.tensor);
    for (const auto& p : {fields.final_hidden, fields.final_cell}) {
      if (p) writes.push_back(p->tensor);
    }
  }

  int64_t time() const { return source.width; }
  int64_t columns() const { return fields.input.weights->n; }
  int64_t stride() const { return source.is_codes ? source.pixel() : round_up(source.channels, 16); }
  int words() const { return static_cast<int>(ceil_div(fields.units, 4)); }
  CodeRows rows(const unsigned char* codes, int64_t images) const {
    return {codes, images * time(), stride(), source.is_codes ? source.bits : fields.input_bits};
  }
  Choice choice(int64_t images) const { return pick(situation_of(fields.input, rows(nullptr, images)), machine, nullptr); }

  std::string method(int64_t images, const std::vector<NetTensor>&) const override { return choice(images).kernel; }
  int64_t workspace_bytes(int64_t images) const override { return choice(images).workspace_bytes; }
  int64_t elements() const override { return std::max(time() * columns(), int64_t{kRangeThreads}); }

  int64_t state_floats() const { return round_up(4 * int64_t{fields.units} + words() + kMaxRecurrentThreads / 16, 4); }
  int64_t scratch_bytes() const override {
    using Parts = ScratchParts;
    return Parts::bytes<unsigned char>(source.is_codes ? 0 : time() * stride()) + Parts::bytes<int>(time() * columns()) +
           Parts::bytes<float>(time()) + Parts::bytes<int>(time()) + Parts::bytes<int>(2) + Parts::bytes<float>(state_floats());
  }

  const float* floats_at(const Run& run, const std::optional<Place>& p, int64_t* image) const {
    if (!p) return nullptr;
    const NetTensor& t = run.tensor(p->tensor);
    *image = t.pixels() * t.pixel();
    return reinterpret_cast<const float*>(run.data({p->tensor, 0})) + p->channel;
  }

  void start(const Run& run) const override {
    ScratchParts parts(run.scratch, run.images);
    unsigned char* own_codes = parts.take<unsigned char>(source.is_codes ? 0 : time() * stride());
    int* sums = parts.take<int>(time() * columns());
    float* scales = parts.take<float>(time());
    int* zeros = parts.take<int>(time());
    int* slots = parts.take<int>(2);
    float* states = parts.take<float>(state_floats());
    Lengths lengths{nullptr, 0, static_cast<int>(time())};
    lengths.of_images = floats_at(run, fields.lengths, &lengths.image);
    const unsigned char* from = run.data({fields.source, 0});
    if (!source.is_codes) quantize(run, reinterpret_cast<const float*>(from), lengths, {own_codes, scales, zeros, slots});
    start_product(fields.input, rows(source.is_codes ? from : own_codes, run.images), "", sums, run);
    RecurrentWork w = work(run, states);
    w.input_sums = sums;
    w.input_scales = source.is_codes ? nullptr : scales;
    w.input_zeros = zeros;
    w.lengths = lengths;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(run.images));
    config.blockDim = dim3(static_cast<unsigned>(std::min(round_up(fields.units, 32), int64_t{kMaxRecurrentThreads})));
    config.stream = static_cast<cudaStream_t>(run.stream);
    check(cudaLaunchKernelEx(&config, each_sequence, w), "starting a recurrent layer");
  }

  struct InputCodes {
    unsigned char* codes;
    float* scales;
    int* zeros;
    int* slots;
  };

  void quantize(const Run& run, const float* x, const Lengths& lengths, const InputCodes& to) const {
    RowCodesWork w{};
    w.rows = run.images * time();
    w.x = x;
    w.count = source.channels;
    w.stride = static_cast<int>(stride());
    w.codes = to.codes;
    w.scales = to.scales;
    w.zeros = to.zeros;
    w.bits = fields.input_bits;
    w.limit = {fields.largest_input, 2147483648.0f, fields.largest_bias};
    w.lengths = lengths;
    w.time = Divisor(time());
    w.status = run.status;
    if (!fields.per_row) {
      start_ranges({run.images * kRangeThreads, x, time() * source.channels, source.channels, lengths, to.slots}, run.images, run.stream);
      w.slots = to.slots;
      w.rows_per_slot = Divisor(time());
    }
    start_row_codes(w, run.stream);
  }

  RecurrentWork work(const Run& run, float* states) const {
    RecurrentWork w{};
    w.is_lstm = fields.is_lstm;
    w.has_candidate = fields.has_candidate;
    w.reverse = fields.reverse;
    w.divide = fields.divide;
    w.units = fields.units;
    w.words = words();
    w.input_columns = static_cast<int>(columns());
    w.input_unit = source.scale;
    w.input_zero = source.zero;
    w.input_column_sums = fields.input.columns.data();
    w.input_scale = fields.input_scale.data();
    w.hidden = matrix(fields.hidden, fields.has_candidate ? 2 : fields.is_lstm ? 4 : 3);
    if (fields.has_candidate) w.candidate = matrix(fields.candidate, 1);
    w.scale = fields.scale.data();
    w.bias = fields.bias.data();
    w.hidden_bias = fields.hidden_bias.data();
    w.hidden_bits = fields.hidden_bits;
    w.hidden_scale = fields.hidden_scale;
    w.hidden_zero = fields.hidden_zero;
    w.limit = {fields.largest_hidden, 2147483648.0f, fields.largest_bias};
    w.first_hidden = floats_at(run, fields.first_hidden, &w.first_hidden_image);
    w.first_cell = floats_at(run, fields.first_cell, &w.first_cell_image);
    for (const Place& p : fields.targets) w.targets[w.target_count++] = elements_of(run, p);
    w.final_hidden = const_cast<float*>(floats_at(run, fields.final_hidden, &w.final_hidden_image));
    w.final_cell = const_cast<float*>(floats_at(run, fields.final_cell, &w.final_cell_image));
    const int64_t units = fields.units;
    float* codes = states + 4 * units;
    w.memory = {states,
                states + units,
                states + 2 * units,
                states + 3 * units,
                reinterpret_cast<int*>(codes),
                codes + words(),
                ScratchParts::bytes<float>(state_floats())};
    w.status = run.status;
    return w;
  }

  WordMatrix matrix(const WordProduct& p, int gates) const { return {p.words.data(), p.columns.data(), gates * fields.units, p.base}; }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(RecurrentFields fields, const Place2D& at) {
  return std::make_unique<RecurrentStep>(std::move(fields), at);
}

}  // namespace ulp::cuda
