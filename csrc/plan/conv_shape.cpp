#include "conv_shape.h"

#include <algorithm>

namespace ulp {

int64_t checked_taps(const std::array<int, 2>& kernel) {
  check_range("kernel height", kernel[0], 1, kMaxKernelSide);
  check_range("kernel width", kernel[1], 1, kMaxKernelSide);
  return int64_t{kernel[0]} * kernel[1];
}

ConvShape conv_shape(const Checks& plan, const Tensor& source, int64_t channels, const ConvWindow& w) {
  ConvShape s{};
  s.height = source.height;
  s.width = source.width;
  s.channels = static_cast<int>(channels);
  checked_taps(w.kernel);
  for (const int stride : w.stride) check_range("stride", stride, 1, kMaxKernelSide);
  for (const int padding : w.padding) check_range("padding", padding, 0, kMaxKernelSide);
  for (const int dilation : w.dilation) check_range("dilation", dilation, 1, kMaxKernelSide);
  s.kernel_y = w.kernel[0];
  s.kernel_x = w.kernel[1];
  s.stride_y = w.stride[0];
  s.stride_x = w.stride[1];
  s.pad_top = w.padding[0];
  s.pad_left = w.padding[1];
  s.dilation_y = w.dilation[0];
  s.dilation_x = w.dilation[1];
  const int64_t room_y = int64_t{s.height} + w.padding[0] + w.padding[2] - int64_t{s.dilation_y} * (s.kernel_y - 1) - 1;
  const int64_t room_x = int64_t{s.width} + w.padding[1] + w.padding[3] - int64_t{s.dilation_x} * (s.kernel_x - 1) - 1;
  if (room_y < 0 || room_x < 0) plan.refuse(": the kernel is larger than the padded image");
  s.out_height = static_cast<int>(room_y / s.stride_y + 1);
  s.out_width = static_cast<int>(room_x / s.stride_x + 1);
  return s;
}

Border conv_border(const ConvShape& s) {
  const int64_t last_y = int64_t{s.out_height - 1} * s.stride_y + int64_t{s.kernel_y - 1} * s.dilation_y;
  const int64_t last_x = int64_t{s.out_width - 1} * s.stride_x + int64_t{s.kernel_x - 1} * s.dilation_x;
  const auto behind = [](int64_t last, int pad, int size) { return static_cast<int>(std::max<int64_t>(0, last - pad - size + 1)); };
  return {s.pad_top, s.pad_left, behind(last_y, s.pad_top, s.height), behind(last_x, s.pad_left, s.width)};
}

}  // namespace ulp
