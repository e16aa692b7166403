// The arguments of the convolution kernels: those of a product whose rows are windows of images, and a layer's epilogue.
//
// A row of the product is an output pixel, its k are the window's taps, `channels` codes each, a multiple of 4: k = (ky * kernel_x + kx) *
// channels + c. What lies outside the image counts as `zero`. The zero points' algebra is that of arguments.h, with m = images x output
// pixels; of `finish` the fields of sums are used, and `layer` takes the place of the others.
//
// Kernels of 1-bit tensor cores read planes of whole pixels (layer_finish.h), so a tap has whole blocks of k: k = (ky * kernel_x + kx) *
// 128 blocks + c. Within a block rows of weights are in the order that makes planes.cuh's words of neighbouring channels; those of channels
// that do not exist are 0. The sizes in `windows` are then in bytes of planes, `channels` those of a pixel in one plane; what lies outside
// is 16 bytes of 0 or 0xFF by the plane's bit of `zero`.
#pragma once

#include "cuda/arguments.h"
#include "cuda/divide.h"
#include "cuda/layer_finish.h"

namespace ulp::cuda {

// Where the windows of a convolution lie.
struct ConvWindows {
  int height = 0;  // of the image
  int width = 0;
  int pixel = 0;      // bytes from a pixel to the next
  int64_t image = 0;  // bytes from an image to the next
  int stride_y = 1, stride_x = 1;
  int pad_top = 0, pad_left = 0;
  int dilation_y = 1, dilation_x = 1;
  Divisor out_pixels;  // of an image
  Divisor out_width;
  Divisor channels;
  Divisor kernel_x;
};

// How 16 codes of a window are loaded: they lie together at a multiple of 16 bytes; four lie together at a multiple of 4; or neither.
enum class Pieces { whole, words, bytes };

struct ConvArguments : Arguments {
  static constexpr int kLaneChannels = 1;

  ConvWindows windows;
  Pieces pieces = Pieces::whole;
  int own = 0;                             // of `channels`, those that are the layer's; the others' weights are 0, or their codes `zero`
  const unsigned char* outside = nullptr;  // 16 codes `zero`; of 1-bit kernels 16 times every code from 0 on
  unsigned zero = 0;                       // four times
  int plane_bytes = 0;                     // of 1-bit kernels: from a plane of a pixel to the next
  LayerFinish layer;
};

}  // namespace ulp::cuda
