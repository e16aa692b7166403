// Steps of a network that end in a layer's epilogue: convolution, depthwise convolution, means, rescaling.
#include <cstring>
#include <stdexcept>

#include "cuda/conv_pick.h"
#include "cuda/conv_sums.cuh"
#include "cuda/network_start.h"
#include "cuda/slices.cuh"

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
    f.residual_pixel = t.pixel();
    f.residual_scale = t.scale / unit;
    f.residual_zero = t.zero;
  }
  for (const Target& target : targets) {
    const NetTensor& t = run.tensor(target.place.tensor);
    Result& r = f.results[f.count++];
    r.pixel = t.pixel();
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

ConvWindows windows_of(const Window2D& w, const NetTensor& t, int64_t channels) {
  ConvWindows v;
  v.height = t.height;
  v.width = t.width;
  v.pixel = t.pixel();
  v.image = t.bytes();
  v.stride_y = w.stride[0];
  v.stride_x = w.stride[1];
  v.pad_top = w.padding[0];
  v.pad_left = w.padding[1];
  v.dilation_y = w.dilation[0];
  v.dilation_x = w.dilation[1];
  v.out_pixels = Divisor(int64_t{w.out[0]} * w.out[1]);
  v.out_width = Divisor(w.out[1]);
  v.channels = Divisor(channels);
  v.kernel_x = Divisor(w.kernel[1]);
  return v;
}

SharedMemory shared_memory_of(int device) {
  SharedMemory s;
  check(cudaDeviceGetAttribute(&s.per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "reading a device's properties");
  check(cudaDeviceGetAttribute(&s.all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "reading a device's properties");
  return s;
}

struct ConvStep final : DeviceStep {
  ConvFields fields;
  NetTensor source;
  Machine machine;
  SharedMemory shared;
  int64_t taps, channels;
  int slices;  // that there is memory for

  ConvStep(ConvFields given, const Place2D& at)
      : fields(std::move(given)),
        source(at.tensor(fields.source.tensor)),
        machine(machine_of(at.device)),
        shared(shared_memory_of(at.device)),
        taps(int64_t{fields.window.kernel[0]} * fields.window.kernel[1]),
        channels(fields.weights->k / taps) {
    reads.push_back(fields.source.tensor);
    fields.finish.add_to(*this);
    slices = useful_splits(size(1), machine);
    static_cast<void>(plan(1));  // refuses what cannot run
  }

  int64_t out_pixels() const { return int64_t{fields.window.out[0]} * fields.window.out[1]; }
  ConvSize size(int64_t images) const {
    return {images * out_pixels(), fields.weights->n, fields.weights->k, source.bits, fields.weights->encoding.bits};
  }
  ConvPlan plan(int64_t images) const {
    return plan_conv(size(images), machine, shared, slices, fields.kernel.empty() ? nullptr : fields.kernel.c_str());
  }

  int w_term() const {
    const Encoding& e = fields.weights->encoding;
    return (e.is_signed ? 0 : 1 << (e.bits - 1)) - fields.weight_zero;
  }
  int64_t slice_bytes() const { return out_pixels() * round_up(fields.weights->n, 2) * 4; }
  int64_t row_sum_bytes() const { return w_term() == 0 ? 0 : round_up(out_pixels() * 4, static_cast<int64_t>(kAlignment)); }

  int64_t scratch_bytes() const override { return row_sum_bytes() + (slices > 1 ? slices * slice_bytes() : 0); }
  std::string method(int64_t images) const override { return plan(images).text(); }

  void start(const Run& run) const override {
    const ConvPlan chosen = plan(run.images);
    const ConvArguments p = arguments(run, chosen);
    cudaStream_t stream = static_cast<cudaStream_t>(run.stream);
    if (p.finish.row_sums != nullptr) {
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(ceil_div(p.m, kReduceThreads / 32)));
      config.blockDim = dim3(kReduceThreads);
      config.stream = stream;
      check(cudaLaunchKernelEx(&config, sum_windows, p, reinterpret_cast<int*>(run.scratch)), "starting sum_windows");
    }
    const ConvKernel kernel = chosen.row->kernel(fields.weights->encoding.bits);
    constexpr int kAlways = 48 * 1024;  // more must be asked for
    if (chosen.shared_bytes > kAlways) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chosen.shared_bytes), "asking for shared memory");
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(chosen.tiles), static_cast<unsigned>(chosen.splits));
    config.blockDim = dim3(static_cast<unsigned>(chosen.row->threads));
    config.dynamicSmemBytes = static_cast<size_t>(chosen.shared_bytes);
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, p), "starting a convolution");
    if (chosen.splits == 1) return;
    cudaLaunchConfig_t adding{};
    adding.gridDim = dim3(static_cast<unsigned>(ceil_div(ceil_div(p.n, 2) * int64_t{p.m}, kReduceThreads)));
    adding.blockDim = dim3(kReduceThreads);
    adding.stream = stream;
    check(cudaLaunchKernelEx(&adding, add_slices<ConvArguments>, p), "starting add_slices");
  }

  ConvArguments arguments(const Run& run, const ConvPlan& chosen) const {
    const Weights& w = *fields.weights;
    const Encoding& e = w.encoding;  // not bipolar: a weight of 0 pads K
    const bool nibbles = chosen.row->nibbles;
    // Flipping the top bit makes codes of all bits signed, and subtracts this from them.
    const int offset = nibbles ? (source.bits == 4 ? 8 : 0) : (source.bits == 8 ? 128 : 0);
    ConvArguments p;
    p.a = run.data(fields.source);
    p.m = static_cast<int>(run.images * out_pixels());
    p.k = static_cast<int>(w.k);
    p.n = static_cast<int>(w.n);
    p.weights = static_cast<const unsigned char*>(w.data.data());
    p.shift = (nibbles ? 4 : 8) - e.bits;
    p.flip = offset == 0 ? 0 : nibbles ? 0x88888888u : 0x80808080u;
    p.splits = chosen.splits;
    p.steps_per_split = chosen.blocks_per_split;
    p.stages = chosen.stages;
    p.partials = reinterpret_cast<int*>(run.scratch + run.images * row_sum_bytes());
    p.windows = windows_of(fields.window, source, channels);
    const int first = fields.source.channel;
    p.pieces = channels % 16 == 0 && first % 16 == 0 && source.pixel() % 16 == 0 ? Pieces::whole
               : first % 4 == 0                                                  ? Pieces::words
                                                                                 : Pieces::bytes;
    p.own = static_cast<int>(std::min<int64_t>(channels, source.channels - first));
    p.outside = run.outside + 16 * source.zero;
    p.zero = 0x01010101u * static_cast<unsigned>(source.zero);
    Finish& f = p.finish;
    f.n = p.n;
    f.m = p.m;
    f.a_term = offset - source.zero;
    f.weight_sums = static_cast<const int*>(w.sums.data());
    f.w_term = w_term();
    f.row_sums = f.w_term != 0 ? reinterpret_cast<const int*>(run.scratch) : nullptr;
    f.row_shift = static_cast<int>(static_cast<uint32_t>(p.k) * static_cast<uint32_t>(source.zero));
    p.layer = fields.finish.on(run, 0.0f);
    return p;
  }
};

struct DepthwiseStep final : DeviceStep {
  DepthwiseFields fields;

  explicit DepthwiseStep(DepthwiseFields given) : fields(std::move(given)) {
    reads.push_back(fields.source);
    fields.finish.add_to(*this);
  }

  std::string method(int64_t) const override { return "depthwise"; }

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

std::unique_ptr<DeviceStep> make_step(ConvFields fields, const Place2D& at) { return std::make_unique<ConvStep>(std::move(fields), at); }
std::unique_ptr<DeviceStep> make_step(DepthwiseFields fields, const Place2D&) { return std::make_unique<DepthwiseStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(MeanFields fields, const Place2D&) { return std::make_unique<MeanStep>(std::move(fields)); }
std::unique_ptr<DeviceStep> make_step(RescaleFields fields, const Place2D&) { return std::make_unique<RescaleStep>(std::move(fields)); }

}  // namespace ulp::cuda
