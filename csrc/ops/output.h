// Where the results of a layer go: the epilogue of all channels, the image that it reads (a shortcut) and those that it writes. A layer's
// loops hand over exact int32 sums run by run; Output::store adds the addresses and calls Ops::finish.
#pragma once

#include "ops.h"

namespace ulp {

inline constexpr int kMaxTargets = 4;

struct Output {
  const Ops* ops = nullptr;
  const float* scale = nullptr;    // one a channel
  const float* bias = nullptr;     // one a channel
  const int32_t* start = nullptr;  // one a channel, added to the sums, or nullptr
  float low = 0;
  float high = 0;

  struct Place {  // pixel (0, 0) of the first image; strides in elements
    int64_t pixel = 0;
    int64_t row = 0;
    int64_t image = 0;
    int64_t at(int64_t i, int64_t y, int64_t x) const { return i * image + y * row + x * pixel; }
  };
  const uint8_t* residual = nullptr;
  Place residual_place;
  float residual_scale = 0;
  int residual_zero = 0;

  Target targets[kMaxTargets] = {};  // codes, floats: pixel (0, 0) of the first image; thresholds, flip: of channel 0
  Place places[kMaxTargets];
  int target_count = 0;

  // The sums of `pixels` pixels from (y, x) of image i on, channels n0 .. n0 + channels - 1. They may be changed on the way.
  void store(int64_t i, int64_t y, int64_t x, int64_t pixels, int64_t n0, int64_t channels, int32_t* acc, int64_t ld) const {
    if (start) {
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t c = 0; c < channels; ++c) acc[p * ld + c] += start[n0 + c];
      }
    }
    Target at[kMaxTargets];
    for (int t = 0; t < target_count; ++t) {
      at[t] = targets[t];
      const int64_t offset = places[t].at(i, y, x) + n0;
      if (at[t].codes) at[t].codes += offset;
      if (at[t].floats) at[t].floats += offset;
      if (at[t].thresholds) {
        at[t].thresholds += n0 * at[t].max_code;
        at[t].flip += n0;
      }
    }
    const uint8_t* other = residual ? residual + residual_place.at(i, y, x) + n0 : nullptr;
    ops->finish({acc, ld, pixels, channels, scale + n0, bias + n0, other, residual_place.pixel, residual_scale, residual_zero, low, high,
                 at, target_count});
  }
};

}  // namespace ulp
