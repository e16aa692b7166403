// The step of a network that convolves: arguments and launches of the kernels of a plan (conv_pick.h).
#include <algorithm>
#include <stdexcept>

#include "cuda/conv_pick.h"
#include "cuda/conv_sums.cuh"
#include "cuda/network_start.h"
#include "cuda/pack_pixels.cuh"

namespace ulp::cuda {
namespace {

SharedMemory shared_memory_of(int device) {
  SharedMemory s;
  check(cudaDeviceGetAttribute(&s.per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "reading a device's properties");
  check(cudaDeviceGetAttribute(&s.all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "reading a device's properties");
  return s;
}

int64_t aligned(int64_t bytes) { return round_up(bytes, static_cast<int64_t>(kAlignment)); }

cudaLaunchConfig_t small_launch(int64_t blocks, int threads, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return config;
}

struct ConvStep final : DeviceStep {
  ConvFields fields;
  NetTensor source;
  Machine machine;
  SharedMemory shared;
  int64_t taps, channels;
  int64_t own;  // of the channels, those that exist
  int slices;   // that there is memory for

  ConvStep(ConvFields given, const Place2D& at)
      : fields(std::move(given)),
        source(at.tensor(fields.source.tensor)),
        machine(machine_of(at.device)),
        shared(shared_memory_of(at.device)),
        taps(int64_t{fields.window.kernel[0]} * fields.window.kernel[1]),
        channels(fields.weights->k / taps),
        own(std::min<int64_t>(channels, source.channels - fields.source.channel)) {
    reads.push_back(fields.source.tensor);
    fields.finish.add_to(*this);
    if (fields.planes != nullptr && (fields.planes->k != taps * pixel_blocks() * kBlock || fields.planes->n != fields.weights->n ||
                                     fields.planes->encoding.bits > kMaxConvPlanes)) {
      throw std::invalid_argument("weights for planes do not fit the others: K = " + std::to_string(fields.planes->k));
    }
    slices = useful_splits(size(1, false), machine);
    static_cast<void>(plan(1, false));  // refuses what cannot run
  }

  int64_t out_pixels() const { return int64_t{fields.window.out[0]} * fields.window.out[1]; }
  int64_t pixel_blocks() const { return ceil_div(own, kBlock); }  // of a pixel in a plane
  // as_planes: how the codes lie.
  ConvSize size(int64_t images, bool as_planes) const {
    ConvSize s{images * out_pixels(), fields.weights->n, fields.weights->k, source.bits, fields.weights->encoding.bits};
    if (fields.planes != nullptr) {
      s.plane_k = fields.planes->k;
      s.plane_bits = fields.planes->encoding.bits;
      s.pixels = images * source.pixels();
      s.codes = s.pixels * own;
      s.plane_sums = plane_term() != 0;
      s.as_planes = as_planes;
    }
    return s;
  }
  ConvPlan plan(int64_t images, bool as_planes) const {
    return plan_conv(size(images, as_planes), machine, shared, slices, fields.kernel.empty() ? nullptr : fields.kernel.c_str());
  }

  // w_term of arguments.h: of bytes and nibbles, where no weights are bipolar (a weight of 0 pads K), and of planes.
  int w_term() const {
    const Encoding& e = fields.weights->encoding;
    return (e.is_signed ? 0 : 1 << (e.bits - 1)) - fields.weight_zero;
  }
  int plane_term() const {
    const Encoding& e = fields.planes->encoding;
    return (e.bipolar() ? 1 : e.is_signed ? 0 : 1 << (e.bits - 1)) - fields.plane_zero;
  }

  // Scratch memory per image, in this order: sums of windows, sums of pixels, planes, slices.
  int64_t slice_bytes() const { return out_pixels() * round_up(fields.weights->n, 2) * 4; }
  bool plane_sums() const { return fields.planes != nullptr && plane_term() != 0; }
  int64_t row_sum_bytes() const { return w_term() == 0 && !plane_sums() ? 0 : aligned(out_pixels() * 4); }
  int64_t pixel_sum_bytes() const { return plane_sums() ? aligned(source.pixels() * 4) : 0; }
  int plane_bytes() const { return static_cast<int>(pixel_blocks()) * (kBlock / 8); }  // of a pixel in one plane
  int64_t all_plane_bytes() const { return fields.planes != nullptr ? aligned(source.pixels() * source.bits * plane_bytes()) : 0; }
  int64_t scratch_bytes() const override {
    return row_sum_bytes() + pixel_sum_bytes() + all_plane_bytes() + (slices > 1 ? slices * slice_bytes() : 0);
  }
  int* pixel_sums(const Run& run) const { return reinterpret_cast<int*>(run.scratch + run.images * row_sum_bytes()); }
  unsigned char* planes(const Run& run) const { return run.scratch + run.images * (row_sum_bytes() + pixel_sum_bytes()); }

  bool multiplies_planes(int tensor) const override {
    if (tensor != fields.source.tensor || fields.planes == nullptr || fields.source.channel != 0 || own != source.channels) return false;
    return fields.kernel.empty() || plan(1, false).row->planes();
  }
  bool takes_planes(int tensor) const override {
    if (tensor == fields.source.tensor && !multiplies_planes(tensor)) return false;
    const auto begins_word = [tensor](const Place& p) { return p.tensor != tensor || p.channel % kStrip == 0; };
    if (fields.finish.residual && !begins_word(*fields.finish.residual)) return false;
    return std::all_of(fields.finish.targets.begin(), fields.finish.targets.end(), [&](const FinishFields::Target& target) {
      return begins_word(target.place) && !(target.other && target.other->tensor == tensor);
    });
  }
  double clocks(int64_t images, const std::vector<NetTensor>& tensors) const override {
    const auto bytes_at = [&](const Place& p) -> int64_t {
      const NetTensor& t = tensors[static_cast<size_t>(p.tensor)];
      return t.as_planes ? t.bits * ceil_div(fields.weights->n, kStrip) * (kStrip / 8) : fields.weights->n * t.element();
    };
    int64_t bytes = fields.finish.residual ? bytes_at(*fields.finish.residual) : 0;
    for (const FinishFields::Target& target : fields.finish.targets) bytes += bytes_at(target.place);
    const bool as_planes = tensors[static_cast<size_t>(fields.source.tensor)].as_planes;
    return plan(images, as_planes).clocks + clocks_to_move(static_cast<double>(images * out_pixels() * bytes), machine);
  }

  std::string method(int64_t images, const std::vector<NetTensor>& tensors) const override {
    const auto as_planes = [&](const Place& p) { return tensors[static_cast<size_t>(p.tensor)].as_planes; };
    std::string text = plan(images, as_planes(fields.source)).text();
    if (as_planes(fields.source)) text += ", reads planes";
    const auto& targets = fields.finish.targets;
    if (std::any_of(targets.begin(), targets.end(), [&](const auto& target) { return as_planes(target.place); })) text += ", writes planes";
    return text;
  }

  void start(const Run& run) const override {
    const ConvPlan chosen = plan(run.images, run.tensor(fields.source.tensor).as_planes);
    const ConvArguments p = arguments(run, chosen);
    cudaStream_t stream = static_cast<cudaStream_t>(run.stream);
    if (chosen.row->planes()) {
      start_planes(run, p);
    } else if (p.finish.row_sums != nullptr) {
      const auto config = small_launch(ceil_div(p.m, kReduceThreads / 32), kReduceThreads, stream);
      check(cudaLaunchKernelEx(&config, sum_windows, p, reinterpret_cast<int*>(run.scratch)), "starting sum_windows");
    }
    const Weights& w = chosen.row->planes() ? *fields.planes : *fields.weights;
    const ConvKernel kernel = chosen.row->kernel(w.encoding.bits);
    constexpr int kAlways = 48 * 1024;  // more must be asked for
    if (chosen.shared_bytes > kAlways) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chosen.shared_bytes), "asking for shared memory");
    }
    cudaLaunchConfig_t config = small_launch(chosen.grid, chosen.row->threads, stream);
    config.dynamicSmemBytes = static_cast<size_t>(chosen.shared_bytes);
    cudaLaunchAttribute cluster{};
    if (chosen.row->hopper) {
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(chosen.splits);
      cluster.val.clusterDim.y = 1;
      cluster.val.clusterDim.z = 1;
      config.attrs = &cluster;
      config.numAttrs = 1;
    } else {
      config.gridDim.y = static_cast<unsigned>(chosen.splits);
    }
    check(cudaLaunchKernelEx(&config, kernel, p), "starting a convolution");
    if (chosen.splits == 1 || chosen.row->hopper) return;
    const auto adding = small_launch(ceil_div(round_up(p.n, kStrip) * int64_t{p.m}, kReduceThreads), kReduceThreads, stream);
    check(cudaLaunchKernelEx(&adding, add_conv_slices, p), "starting add_conv_slices");
  }

  // The planes of all pixels where they are not there, and where weights need them, the sums of windows.
  void start_planes(const Run& run, const ConvArguments& p) const {
    const int64_t pixels = run.images * source.pixels();
    const CodePlanes planes{source.bits, plane_bytes()};
    if (!run.tensor(fields.source.tensor).as_planes) {
      const unsigned char* codes = run.data(fields.source);
      const bool whole = reinterpret_cast<uintptr_t>(codes) % 16 == 0 && source.pixel() % 16 == 0;
      const int words = plane_bytes() / 4;
      start_work(PackPixelsWork{pixels * words, Divisor(words), codes, source.pixel(), static_cast<int>(own), whole, planes,
                                const_cast<unsigned char*>(p.a)},
                 run.stream);
    }
    if (p.finish.row_sums == nullptr) return;
    int* sums = pixel_sums(run);
    start_work(PlaneSumsWork{pixels, p.a, planes, static_cast<int>(own), sums}, run.stream);
    ConvWindows w = p.windows;
    w.pixel = 1;
    w.image = source.pixels();
    start_work(TapSumsWork{p.m, sums, w, fields.window.kernel[0], fields.window.kernel[1], static_cast<int>(own) * source.zero,
                           reinterpret_cast<int*>(run.scratch)},
               run.stream);
  }

  ConvArguments arguments(const Run& run, const ConvPlan& chosen) const {
    const bool by_planes = chosen.row->planes();
    const Weights& w = by_planes ? *fields.planes : *fields.weights;
    const Encoding& e = w.encoding;
    ConvArguments p;
    p.m = static_cast<int>(run.images * out_pixels());
    p.k = static_cast<int>(w.k);
    p.n = static_cast<int>(w.n);
    p.weights = static_cast<const unsigned char*>(w.data.data());
    p.splits = chosen.splits;
    p.steps_per_split = chosen.steps_per_split;
    p.stages = chosen.stages;
    p.token_tiles = static_cast<int>(chosen.pixel_tiles);
    p.channel_tiles = static_cast<int>(chosen.channel_tiles);
    p.partials = reinterpret_cast<int*>(planes(run) + run.images * all_plane_bytes());
    p.outside = run.outside + (by_planes ? 0 : 16 * source.zero);
    p.zero = 0x01010101u * static_cast<unsigned>(source.zero);
    p.own = static_cast<int>(own);
    Finish& f = p.finish;
    f.n = p.n;
    f.m = p.m;
    f.weight_sums = static_cast<const int*>(w.sums.data());
    f.a_term = -source.zero;
    f.w_term = by_planes ? plane_term() : w_term();
    f.row_sums = f.w_term != 0 ? reinterpret_cast<const int*>(run.scratch) : nullptr;
    f.row_shift = static_cast<int>(static_cast<uint32_t>(by_planes ? taps * own : w.k) * static_cast<uint32_t>(source.zero));
    if (by_planes) {
      plane_arguments(run, e, p);
    } else {
      byte_arguments(run, *chosen.row, e, p);
    }
    p.layer = fields.finish.on(run, 0.0f);
    return p;
  }

  void plane_arguments(const Run& run, const Encoding& e, ConvArguments& p) const {
    p.a = run.tensor(fields.source.tensor).as_planes ? run.data(fields.source) : planes(run);
    p.plane_bytes = plane_bytes();
    p.planes = {e.bits, source.bits, !e.bipolar(), false, e.bipolar() ? -2 : 1, static_cast<int>(taps) * plane_bytes()};
    p.windows = windows_of(fields.window, source, plane_bytes());
    p.windows.pixel = source.bits * plane_bytes();
    p.windows.image = source.pixels() * p.windows.pixel;
    // The sums of bipolar weights are K more than those of what is stored.
    if (e.bipolar()) p.finish.padding = static_cast<int>(0u - static_cast<uint32_t>(p.finish.a_term) * static_cast<uint32_t>(p.k));
  }

  void byte_arguments(const Run& run, const ConvRow& row, const Encoding& e, ConvArguments& p) const {
    const bool nibbles = row.unit == Unit::s4;
    // Flipping the top bit makes codes of all bits signed, and subtracts this from them; wgmma multiplies unsigned ones.
    const int offset = row.unit == Unit::u8 ? 0 : nibbles ? (source.bits == 4 ? 8 : 0) : (source.bits == 8 ? 128 : 0);
    p.a = run.data(fields.source);
    p.shift = (nibbles ? 4 : 8) - e.bits;
    p.flip = offset == 0 ? 0 : nibbles ? 0x88888888u : 0x80808080u;
    p.finish.a_term += offset;
    p.windows = windows_of(fields.window, source, channels);
    const int first = fields.source.channel;
    p.pieces = channels % 16 == 0 && first % 16 == 0 && source.pixel() % 16 == 0 ? Pieces::whole
               : first % 4 == 0                                                  ? Pieces::words
                                                                                 : Pieces::bytes;
  }
};

}  // namespace

std::unique_ptr<DeviceStep> make_step(ConvFields fields, const Place2D& at) { return std::make_unique<ConvStep>(std::move(fields), at); }

}  // namespace ulp::cuda
