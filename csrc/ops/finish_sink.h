// The sink that finishes sums: scale, bias, shortcut, clamp, and the targets of an Output.
#pragma once

#include "../gemm/sink.h"
#include "output.h"

namespace ulp {

// Row m of the product is pixel (m / width, m % width) of an image; of a plain matrix, with all rows in one row of pixels, m itself.
class FinishSink final : public Sink {
 public:
  FinishSink(const Output& output, int64_t image, int64_t width) : output_(output), image_(image), width_(width) {}

  void put(const SumBlock& b) const override {
    int64_t y = b.m < width_ ? 0 : b.m / width_;  // a matrix saves the division
    int64_t x = b.m - y * width_;
    for (int64_t r = 0; r < b.rows; ++y, x = 0) {
      const int64_t pixels = b.rows - r < width_ - x ? b.rows - r : width_ - x;
      output_.store(image_, y, x, pixels, b.n, b.cols, b.sums + r * b.ld, b.ld);
      r += pixels;
    }
  }

 private:
  const Output& output_;
  int64_t image_;
  int64_t width_;
};

}  // namespace ulp
