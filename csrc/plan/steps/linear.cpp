// A matrix product of the images as rows, with an epilogue:
//
//     acc[n] = start[n] + sum over y, x, c of (a[y][x][c] - zero) * (w[y][x][c][n] - weight_zero)
//
// source: H x W x C codes; weights: packed, K x N, rows in the order (y, x, c), channels padded to a multiple of 4: K = H * W * padded C;
// the result is 1 x 1 x N. The sum, start included, stays in int32 (Checks::sums). kernel: empty, or a kernel's name.
#include <cstring>
#include <utility>

#include "../../gemm/gemm.h"
#include "../../ops/finish_sink.h"
#include "../finish_spec.h"
#include "../step.h"

namespace ulp {
namespace {

struct LinearStep final : Step {
  int source = -1;
  Weights weights;
  int32_t weight_zero = 0;
  FinishSpec finish;
  std::string requested{};  // the field `kernel`

  const Kernel* kernel = nullptr;

  FieldList fields() override {
    return {{"source", &source}, {"weights", &weights}, {"weight_zero", &weight_zero}, {"finish", &finish}, {"kernel", &requested}};
  }

  std::string method() const override { return kernel->name; }

  Effects check(const Checks& plan) override {
    const Tensor& t = plan.readable_codes(source);
    const BitpackedLayout& layout = weights->layout;
    const int64_t k = int64_t{t.height} * t.width * round_up(t.channels, 4);
    if (layout.n < 1 || layout.k != k) {
      plan.refuse(": weights have K = " + std::to_string(layout.k) + ", the image " + shape_text(t.height, t.width, t.channels) +
                  " takes " + std::to_string(k));
    }
    plan.layout(source, PixelLayout::padded);
    const int64_t largest_sum = plan.sums(k, t.bits, t.zero, weights->encoding, weight_zero, finish.start);
    finish.check(plan, {1, 1, layout.n, source, true, largest_sum});
    choose_kernel(1, t.bits);  // refuses what cannot run

    Effects e;
    e.reads = finish.reads(source);
    e.writes = finish.targets;
    e.channels = layout.n;
    e.layout = PixelLayout::padded;
    e.macs = k * layout.n;
    e.a_bits = t.bits;
    e.w_bits = layout.bits;
    e.weight_bytes = static_cast<int64_t>(weights->data.size());
    return e;
  }

  void choose_kernel(int64_t images, int a_bits) {
    const Shape shape{images, weights->layout.n, weights->layout.k, {a_bits, false}, weights->encoding, weights->excess};
    kernel = &select_kernel(shape, requested.empty() ? nullptr : requested.c_str());
  }

  int64_t bind(const std::vector<Tensor>& tensors, int64_t group) override {
    const Tensor& t = tensors[static_cast<size_t>(source)];
    choose_kernel(group, t.bits);
    return t.border.empty() ? 0 : weights->layout.k;
  }

  void run(const Context& c) const override {
    const Tensor& t = c.tensor(source);
    Problem p;
    p.a = {c.codes(source).data, c.images, weights->layout.k, t.strides.image, 1, false};
    p.a_encoding = {t.bits, false};
    p.a_zero = t.zero;
    p.b = weights.get();
    p.b_zero = &weight_zero;
    if (!t.border.empty()) {
      copy_without_border(c, c.scratch);
      p.a.data = c.scratch;
      p.a.row_stride = p.a.cols;
    }
    Output output = finish.output(c);
    std::swap(p.start, output.start);  // the product adds it
    output.take_images_as_pixels();    // a row of the product is an image of one pixel
    gemm(p, *kernel, FinishSink(output, 0, c.images));
  }

  void copy_without_border(const Context& c, uint8_t* flat) const {
    const Tensor& t = c.tensor(source);
    const ImageView<uint8_t> from = c.codes(source);
    const int64_t row = t.width * t.strides.pixel;
    for (int64_t i = 0; i < c.images; ++i) {
      for (int64_t y = 0; y < t.height; ++y) std::memcpy(flat + (i * t.height + y) * row, from.row(i, y), static_cast<size_t>(row));
    }
  }
};

}  // namespace

std::unique_ptr<Step> make_linear() { return std::make_unique<LinearStep>(); }

}  // namespace ulp
