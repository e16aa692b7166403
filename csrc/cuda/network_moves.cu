// Steps of a network without sums of products: inputs and outputs, poolings, moves, tables, sums of images.
#include <algorithm>

#include "cuda/network_start.h"

namespace ulp::cuda {
namespace {

struct InputStep final : DeviceStep {
  InputFields fields;

  explicit InputStep(InputFields given) : fields(std::move(given)) {
    writes = fields.targets;
    input = fields.port;
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.targets[0]);
    InputWork w{};
    w.count = run.images * t.pixels() * t.channels;
    const void* x = run.inputs[fields.port];
    w.floats = fields.codes ? nullptr : static_cast<const float*>(x);
    w.codes = fields.codes ? static_cast<const unsigned char*>(x) : nullptr;
    w.nhwc = fields.nhwc;
    w.divide = fields.divide;
    w.pixels = Divisor(t.pixels());
    w.channels = Divisor(t.channels);
    for (const int id : fields.targets) {
      w.to[w.targets++] = elements_of(run, {id, 0});
      w.quantizes |= run.tensor(id).is_codes;
    }
    w.status = run.status;
    start_work(w, run.stream);
  }
};

struct OutputStep final : DeviceStep {
  OutputFields fields;

  explicit OutputStep(OutputFields given) : fields(given) {
    reads = {fields.tensor};
    output = fields.port;
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.tensor);
    void* out = run.outputs[fields.port];
    start_work(OutputWork{run.images * t.pixels() * t.channels, elements_of(run, {fields.tensor, 0}), fields.nhwc, Divisor(t.pixels()),
                          Divisor(t.channels), t.is_codes ? nullptr : static_cast<float*>(out),
                          t.is_codes ? static_cast<unsigned char*>(out) : nullptr},
               run.stream);
  }
};

struct MaxPoolStep final : DeviceStep {
  MaxPoolFields fields;

  explicit MaxPoolStep(MaxPoolFields given) : fields(std::move(given)) {
    reads = {fields.source};
    writes = {fields.target.tensor};
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    const NetTensor& to = run.tensor(fields.target.tensor);
    const WindowSource from{run.data({fields.source, 0}),
                            t.bytes(),
                            t.width,
                            t.pixel(),
                            Divisor(t.channels),
                            Divisor(to.pixels()),
                            Divisor(to.width),
                            fields.rows.data(),
                            fields.columns.data()};
    start_work(MaxPoolWork{run.images * to.pixels() * t.channels, from, fields.dilation[0], fields.dilation[1], fields.masks.data(),
                           run.data(fields.target), to.pixel()},
               run.stream);
  }
};

struct MoveStep final : DeviceStep {
  MoveFields fields;

  explicit MoveStep(MoveFields given) : fields(std::move(given)) {
    reads = {fields.source.tensor};
    writes = {fields.target.tensor};
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "copy"; }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source.tensor);
    if (t.is_codes) {
      move<unsigned char>(run, static_cast<unsigned char>(t.zero));
    } else {
      move<float>(run, 0.0f);
    }
  }

  template <typename T>
  void move(const Run& run, T zero) const {
    const NetTensor& t = run.tensor(fields.source.tensor);
    const NetTensor& to = run.tensor(fields.target.tensor);
    start_work(MoveWork<T>{run.images * to.pixels() * fields.count, reinterpret_cast<const T*>(run.data(fields.source)),
                           t.pixels() * t.pixel(), Divisor(fields.count), Divisor(to.pixels()), Divisor(to.width), fields.rows.data(),
                           fields.columns.data(), fields.channels.data(), reinterpret_cast<T*>(run.data(fields.target)), to.pixel(), zero},
               run.stream);
  }
};

struct LookupStep final : DeviceStep {
  LookupFields fields;

  explicit LookupStep(LookupFields given) : fields(std::move(given)) {
    reads = {fields.source};
    writes = {fields.target.tensor};
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "table"; }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    const Elements to = elements_of(run, fields.target);
    start_work(LookupWork{run.images * t.pixels() * t.channels, run.data({fields.source, 0}), t.pixel(), Divisor(t.channels),
                          t.max_code() + 1, fields.per_channel, fields.codes.data(), fields.values.data(), to.codes, to.floats, to.pixel},
               run.stream);
  }
};

struct LinearFloatsStep final : DeviceStep {
  LinearFloatsFields fields;

  explicit LinearFloatsStep(LinearFloatsFields given) : fields(std::move(given)) {
    reads = {fields.source};
    writes = {fields.target.tensor};
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "float32"; }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    const Elements to = elements_of(run, fields.target);
    start_work(LinearFloatsWork{run.images * fields.n, Divisor(fields.n), static_cast<int>(t.pixels() * t.channels),
                                reinterpret_cast<const float*>(run.data({fields.source, 0})), fields.weights.data(), fields.bias.data(),
                                to.floats, to.pixel},
               run.stream);
  }
};

struct CombineStep final : DeviceStep {
  CombineFields fields;

  explicit CombineStep(CombineFields given) : fields(std::move(given)) {
    for (const Place& p : fields.operands) reads.push_back(p.tensor);
    for (const Place& p : fields.targets) writes.push_back(p.tensor);
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.operands[0].tensor);
    CombineWork w{};
    w.count = run.images * t.pixels() * fields.channels;
    w.channels = Divisor(fields.channels);
    w.pixels = Divisor(t.pixels());
    for (const Place& p : fields.operands) {
      w.one_pixel[w.operand_count] = run.tensor(p.tensor).pixels() == 1;
      w.operands[w.operand_count++] = elements_of(run, p);
    }
    for (const Place& p : fields.targets) {
      w.targets[w.target_count++] = elements_of(run, p);
      w.quantizes |= run.tensor(p.tensor).is_codes;
    }
    w.multiply = fields.multiply;
    w.low = fields.low;
    w.high = fields.high;
    w.divide = fields.divide;
    w.status = run.status;
    start_work(w, run.stream);
  }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(InputFields fields, const Place2D&) { return std::make_unique<InputStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(OutputFields fields, const Place2D&) { return std::make_unique<OutputStep>(fields); }
std::unique_ptr<DeviceStep> make_step(MaxPoolFields fields, const Place2D&) { return std::make_unique<MaxPoolStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(MoveFields fields, const Place2D&) { return std::make_unique<MoveStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(LookupFields fields, const Place2D&) { return std::make_unique<LookupStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(LinearFloatsFields fields, const Place2D&) {
  return std::make_unique<LinearFloatsStep>(std::move(fields));
}
std::unique_ptr<DeviceStep> make_step(CombineFields fields, const Place2D&) { return std::make_unique<CombineStep>(std::move(fields)); }

}  // namespace ulp::cuda
