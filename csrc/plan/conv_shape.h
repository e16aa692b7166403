// The sliding windows of a convolution, as steps describe them.
#pragma once

#include "../conv/conv.h"
#include "checks.h"

namespace ulp {

struct ConvWindow {
  std::array<int, 2> kernel{1, 1};  // each pair: along y, along x
  std::array<int, 2> stride{1, 1};
  std::array<int, 4> padding{};  // top, left, bottom, right
  std::array<int, 2> dilation{1, 1};
};

// The taps of a kernel. Throws std::invalid_argument where its sides are not in 1..kMaxKernelSide.
int64_t checked_taps(const std::array<int, 2>& kernel);

// The convolution of `channels` channels of an image. Throws std::invalid_argument where the window does not fit.
ConvShape conv_shape(const Checks& plan, const Tensor& source, int64_t channels, const ConvWindow& window);

// What the windows read around the image.
Border conv_border(const ConvShape& shape);

}  // namespace ulp
