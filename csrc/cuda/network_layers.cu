// Steps of a network that end in a layer's epilogue: depthwise convolution, means, rescaling. Others are in network_conv.cu.
#include "cuda/network_start.h"

namespace ulp::cuda {

LayerFinish FinishFields::on(const Run& run, float one_scale) const {
  LayerFinish f;
  f.one_scale = one_scale;
  f.scales = scale.data();
  f.bias = bias.data();
  f.start = start.data();
  f.low = low;
  f.high = high;
  if (residual) {
    const NetTensor& t = run.tensor(residual->tensor);
    f.residual = run.data(*residual);
    f.residual_pixel = t.as_planes ? t.pixel_planes() : t.pixel();
    if (t.as_planes) f.residual_planes = t.planes();
    f.residual_scale = t.scale / unit;
    f.residual_zero = t.zero;
  }
  for (const Target& target : targets) {
    const NetTensor& t = run.tensor(target.place.tensor);
    Result& r = f.results[f.count++];
    r.pixel = t.as_planes ? t.pixel_planes() : t.pixel();
    if (t.as_planes) r.planes = t.planes();
    if (!t.is_codes) {
      r.floats = reinterpret_cast<float*>(run.data(target.place));
      continue;
    }
    r.codes = run.data(target.place);
    const bool after = target.table.data() != nullptr;
    r.inverse = unit / (after ? target.after_scale : t.scale);
    r.zero = after ? target.after_zero : t.zero;
    r.max_code = after ? (1 << target.after_bits) - 1 : t.max_code();
    r.thresholds = target.thresholds.data();
    r.flip = target.flip.data();
    r.table = target.table.data();
    r.table_bits = target.after_bits;
    if (target.other) {
      r.other = run.data(*target.other);
      r.other_pixel = run.tensor(target.other->tensor).pixel();
    }
  }
  return f;
}

void FinishFields::add_to(DeviceStep& step) const {
  if (residual) step.reads.push_back(residual->tensor);
  for (const Target& target : targets) {
    step.writes.push_back(target.place.tensor);
    if (target.other) step.reads.push_back(target.other->tensor);
  }
}

namespace {

struct DepthwiseStep final : DeviceStep {
  DepthwiseFields fields;

  explicit DepthwiseStep(DepthwiseFields given) : fields(std::move(given)) {
    reads.push_back(fields.source);
    fields.finish.add_to(*this);
  }

  std::string method(int64_t, const std::vector<NetTensor>&) const override { return "depthwise"; }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    const Window2D& w = fields.window;
    start_work(DepthwiseWork{run.images * w.out[0] * w.out[1] * t.channels, run.data({fields.source, 0}), windows_of(w, t, t.channels),
                             w.kernel[0], w.kernel[1], t.zero, fields.weights.data(), fields.finish.on(run, 0.0f)},
               run.stream);
  }
};

struct MeanStep final : DeviceStep {
  MeanFields fields;

  explicit MeanStep(MeanFields given) : fields(std::move(given)) {
    reads.push_back(fields.source);
    fields.finish.add_to(*this);
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    const int64_t pixels = int64_t{fields.out[0]} * fields.out[1];
    const WindowSource from{run.data({fields.source, 0}),
                            t.bytes(),
                            t.width,
                            t.pixel(),
                            Divisor(t.channels),
                            Divisor(pixels),
                            Divisor(fields.out[1]),
                            fields.rows.data(),
                            fields.columns.data()};
    start_work(MeanWork{run.images * pixels * t.channels, from, t.zero, fields.scales.data(), fields.finish.on(run, 0.0f)}, run.stream);
  }
};

struct RescaleStep final : DeviceStep {
  RescaleFields fields;

  explicit RescaleStep(RescaleFields given) : fields(std::move(given)) {
    reads.push_back(fields.source);
    fields.finish.add_to(*this);
  }

  void start(const Run& run) const override {
    const NetTensor& t = run.tensor(fields.source);
    start_work(RescaleWork{run.images * t.pixels() * t.channels, run.data({fields.source, 0}), t.pixel(), t.zero, Divisor(t.channels),
                           fields.finish.on(run, fields.scale)},
               run.stream);
  }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(DepthwiseFields fields, const Place2D&) { return std::make_unique<DepthwiseStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(MeanFields fields, const Place2D&) { return std::make_unique<MeanStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(RescaleFields fields, const Place2D&) { return std::make_unique<RescaleStep>(std::move(fields)); }

}  // namespace ulp::cuda
