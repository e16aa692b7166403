// A convolution of each channel by itself, with an epilogue:
//
//     acc[y][x][c] = start[c] + sum over ky, kx of (a[..][c] - zero) * w[ky][kx][c]
//
// source: H x W x C codes; weights: kernel_y x kernel_x x C, int8; the result is H' x W' x C. The sum stays in int32 (Checks::sums).
#include <algorithm>

#include "../../conv/conv_methods.h"
#include "../../gemm/threads.h"
#include "../conv_shape.h"
#include "../finish_spec.h"
#include "../step.h"

namespace ulp {
namespace {

constexpr int64_t kBlockChannels = 64;
constexpr int64_t kBlockPixels = kSumBytes / 4 / kBlockChannels;

struct DepthwiseStep final : Step {
  int source = -1;
  Array<int8_t, 3> weights;
  ConvWindow window;  // its kernel is the shape of the weights
  FinishSpec finish;

  ConvShape shape{};
  int64_t weight_stride = 0;       // from the weights of a tap to the next one's
  std::vector<int8_t> rows{};      // the weights, each tap padded to whole vectors
  std::vector<int32_t> bases{};    // of the sums, per channel: what the zero point of the codes adds
  int max_product = 0;             // of a code and a weight
  std::vector<int64_t> offsets{};  // of each tap from the window's first pixel, in bytes; set by bind

  FieldList fields() override {
    return {{"source", &source},          {"weights", &weights},          {"stride", &window.stride},
            {"padding", &window.padding}, {"dilation", &window.dilation}, {"finish", &finish}};
  }

  std::string method() const override { return depthwise_method().name; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    for (size_t i = 0; i < 2; ++i) window.kernel[i] = static_cast<int>(std::min<int64_t>(weights.shape[i], kMaxKernelSide + 1));
    shape = conv_shape(plan, t, t.channels, window);
    if (weights.shape[2] != t.channels)
      plan.refuse(": expected " + std::to_string(shape.taps()) + " x " + std::to_string(t.channels) + " weights");
    const int64_t largest_sum = plan.sums(shape.taps(), t.bits, t.zero, {8, true}, 0, finish.start);
    check_sides(shape.out_height, shape.out_width, t.channels);
    finish.check(plan, {shape.out_height, shape.out_width, t.channels, source, true, largest_sum});
    lay_out_weights(t);

    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = t.channels;
    e.border = conv_border(shape);
    e.macs = shape.pixels() * shape.taps() * t.channels;
    e.a_bits = t.bits;
    e.w_bits = weight_bits();
    e.weight_bytes = weights.size();
    return e;
  }

  void lay_out_weights(const Tensor& t) {
    const int64_t channels = t.channels;
    weight_stride = round_up(channels, 32);
    rows.assign(static_cast<size_t>(shape.taps() * weight_stride + 32), 0);
    bases.assign(static_cast<size_t>(channels), 0);
    int max_weight = 0;
    for (int64_t tap = 0; tap < shape.taps(); ++tap) {
      for (int64_t c = 0; c < channels; ++c) {
        const int8_t w = weights[tap * channels + c];
        rows[static_cast<size_t>(tap * weight_stride + c)] = w;
        bases[static_cast<size_t>(c)] -= t.zero * w;
        max_weight = std::max(max_weight, w < 0 ? -w : +w);
      }
    }
    max_product = t.max_code() * max_weight;
  }

  // The fewest that hold all weights in two's complement.
  int weight_bits() const {
    int reach = 0;
    for (const int8_t w : weights.values) reach = std::max(reach, w < 0 ? -w - 1 : +w);
    int bits = 1;
    while (reach >> (bits - 1)) ++bits;
    return bits;
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t) override {
    const ImageStrides& s = tensors[static_cast<size_t>(source)].strides;
    offsets.clear();
    for (int y = 0; y < shape.kernel_y; ++y) {
      for (int x = 0; x < shape.kernel_x; ++x) offsets.push_back(s.offset(0, y * shape.dilation_y, x * shape.dilation_x));
    }
    return 0;
  }

  void run(const Context& c) const override {
    const DepthwiseMethod& way = depthwise_method();
    const Output output = finish.output(c);
    const ImageView<uint8_t> windows = c.codes(source).from(-shape.pad_top, -shape.pad_left);
    Tasks tasks = c.tasks;
    tasks.parallel &= shape.pixels() * shape.taps() * shape.channels * c.images >= kParallelMacs / 8;
    // By rows, whose sources lie together; late layers have few rows, which many threads cannot share evenly, but many channels.
    const int64_t wanted = tasks.parallel ? 2 * tasks.threads : 1;
    const int64_t blocks_in_all = ceil_div(shape.channels, kBlockChannels);
    const int64_t channel_parts = shape.out_height >= 2 * wanted ? 1 : std::min(wanted, blocks_in_all);
    const int64_t row_parts = std::min<int64_t>(shape.out_height, ceil_div(wanted, channel_parts));
    tasks.run(c.images * row_parts * channel_parts, [&](int64_t index) {
      const int64_t i = index / channel_parts / row_parts;
      const Range blocks = part(blocks_in_all, channel_parts, index % channel_parts);
      const Range part_rows = part(shape.out_height, row_parts, index / channel_parts % row_parts);
      alignas(64) int32_t acc[kSumBytes / 4];
      Depthwise d{};
      d.step = shape.stride_x * windows.strides.pixel;
      d.row_step = shape.stride_y * windows.strides.row;
      d.taps = offsets.data();
      d.tap_count = static_cast<int>(offsets.size());
      d.weight_stride = weight_stride;
      d.max_product = max_product;
      d.acc = acc;
      d.ld = kBlockChannels;
      // As many rows at once as have room for their sums; of wide images parts of one.
      const int64_t rows_at_once = std::max<int64_t>(1, kBlockPixels / shape.out_width);
      for (int64_t y = part_rows.begin; y < part_rows.end; y += d.rows) {
        d.rows = std::min(rows_at_once, part_rows.end - y);
        for (int64_t block = blocks.begin; block < blocks.end; ++block) {
          const int64_t n0 = block * kBlockChannels;
          d.channels = std::min<int64_t>(kBlockChannels, shape.channels - n0);
          d.weights = rows.data() + n0;
          d.start = bases.data() + n0;
          for (int64_t x = 0; x < shape.out_width; x += kBlockPixels) {
            d.pixels = std::min<int64_t>(kBlockPixels, shape.out_width - x);
            d.a = windows.pixel(i, y * shape.stride_y, x * shape.stride_x) + n0;
            way.run(d);
            for (int64_t r = 0; r < d.rows; ++r) {
              output.store(i, y + r, x, d.pixels, n0, d.channels, acc + r * d.pixels * kBlockChannels, kBlockChannels);
            }
          }
        }
      }
    });
  }
};

}  // namespace

std::unique_ptr<Step> make_depthwise() { return std::make_unique<DepthwiseStep>(); }

}  // namespace ulp
