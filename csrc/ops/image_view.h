// Images in memory, channels last (NHWC): where a pixel lies is computed here and nowhere else.
//
// Not for kernel files: an inline function that they emit would carry their instruction set under a shared name.
#pragma once

#include <cstdint>

namespace ulp {

// Distances from a pixel, a row and an image to the next, in elements.
struct ImageStrides {
  int64_t pixel = 0;
  int64_t row = 0;
  int64_t image = 0;

  // Of channel 0 of pixel (y, x) from that of pixel (0, 0) of the first image. Pixels of a border have negative coordinates, or ones past
  // the image's size.
  int64_t offset(int64_t i, int64_t y, int64_t x) const { return i * image + y * row + x * pixel; }
};

template <class T>
struct ImageView {
  T* data = nullptr;  // channel 0 of pixel (0, 0) of the first image
  ImageStrides strides;

  T* pixel(int64_t image, int64_t y, int64_t x) const { return data + strides.offset(image, y, x); }
  T* row(int64_t image, int64_t y) const { return pixel(image, y, 0); }

  // The same images, seen with pixel (y, x) as the first.
  ImageView from(int64_t y, int64_t x) const { return {pixel(0, y, x), strides}; }
};

using CodeImages = ImageView<const uint8_t>;

}  // namespace ulp
