// The images that the steps of a plan read and write.
#pragma once

#include <cstdint>

#include "../ops/image_view.h"
#include "channel_set.h"

namespace ulp {

// Pixels around an image.
struct Border {
  int top = 0, left = 0, bottom = 0, right = 0;
  bool empty() const { return top + left + bottom + right == 0; }
};

// How the codes of a pixel are read: `padded` to a multiple of 4 channels, or `tight`, without gaps between pixels (conv.h).
enum class PixelLayout { any, padded, tight };

// Images, channels last (NHWC), one after another. Codes: one byte per channel, around each image a border; the border, and the channels
// that pad a pixel, hold `zero`. Floats: 4 bytes per channel, neither border nor padding.
struct Tensor {
  int height, width, channels;
  bool is_codes;
  int bits;
  int zero;
  float scale;

  // What the steps so far need of it.
  Border border{};
  PixelLayout layout = PixelLayout::any;  // any: pixels of codes are padded, too
  ChannelSet written{};                   // channels that a step has written

  // Set by finalize.
  ImageStrides strides{};  // in bytes
  int64_t first = 0;       // of pixel (0, 0) of the first image, in bytes from the arena's start
  int64_t begin = 0;       // of the first image's border, likewise
  int first_step = -1, last_step = -1;
  int port = -1;  // the output of the plan that the tensor is itself, so that nothing is copied; -1: none, it lies in the arena

  int64_t element_bytes() const { return is_codes ? 1 : 4; }
  int64_t elements() const { return int64_t{height} * width * channels; }
  int max_code() const { return (1 << bits) - 1; }
  bool same_quantizer(const Tensor& other) const { return bits == other.bits && zero == other.zero && scale == other.scale; }
};

// Channels of a tensor, from `channel` on.
struct Slice {
  int tensor;
  int channel;
};

}  // namespace ulp
