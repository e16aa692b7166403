// Where the results of a layer go: the epilogue of all channels, the image that it reads (a shortcut) and those that it writes. A layer's
// loops hand over exact int32 sums run by run; Output::store adds the addresses and calls Ops::finish.
#pragma once

#include <cstring>

#include "image_view.h"
#include "ops.h"

namespace ulp {

inline constexpr int kMaxTargets = 4;

// The largest |x| of some floats, by their bits, which compilers turn into vectors: a NaN is larger than all else.
inline float largest_magnitude(const float* x, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

// How far the values of an epilogue reach from 0, for Target::fits_int32: sums up to 2^31 in magnitude, and what is added to them.
struct ValueReach {
  float scale;  // largest_magnitude of the scales
  float added;  // likewise, of what is added
  float sum = 2147483648.0f;

  // Half of int32's range leaves room for the roundings on the way. False where anything is a NaN.
  bool fits_int32(float inverse) const { return (scale * sum + added) * inverse < 1073741824.0f; }
};

// What is made of a target's codes while they are in the cache: table[u], or table[u | w << bits], w being the code of another image.
struct After {
  const uint8_t* table = nullptr;  // 256 bytes; nullptr: the codes stay as they are
  int bits = 0;                    // of u
  int index_bits = 0;              // of u and w
  const uint8_t* other = nullptr;  // w of pixel (0, 0) of the first image
  ImageStrides other_place;
};

struct Output {
  const Ops* ops = nullptr;
  const float* scale = nullptr;  // one per channel, or one
  bool one_scale = false;
  const float* bias = nullptr;     // one per channel, or nullptr
  const int32_t* start = nullptr;  // one per channel, added to the sums, or nullptr
  float low = 0;
  float high = 0;
  const float* step = nullptr;  // as in Finish
  const float* step_offset = nullptr;
  int step_zero = 0;

  const uint8_t* residual = nullptr;
  ImageStrides residual_place;
  float residual_scale = 0;
  int residual_zero = 0;

  Target targets[kMaxTargets] = {};  // codes, floats: of pixel (0, 0) of the first image; thresholds, flip: of channel 0; no pixel
  ImageStrides places[kMaxTargets];
  After after[kMaxTargets];
  bool has_after = false;  // anywhere
  int target_count = 0;

  // For images of one pixel: from here on they count as the pixels of one row.
  void take_images_as_pixels() {
    residual_place.pixel = residual_place.image;
    for (ImageStrides& place : places) place.pixel = place.image;
    for (After& a : after) a.other_place.pixel = a.other_place.image;
  }

  // The sums of `pixels` pixels from (y, x) of image i on, channels n0 .. n0 + channels - 1. They may be changed on the way.
  void store(int64_t i, int64_t y, int64_t x, int64_t pixels, int64_t n0, int64_t channels, int32_t* acc, int64_t ld) const {
    if (start) {
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t c = 0; c < channels; ++c) acc[p * ld + c] += start[n0 + c];
      }
    }
    if (!has_after) return finish(i, y, x, pixels, n0, channels, acc, ld, nullptr);
    uint8_t staged[kMaxTargets][kStaged];
    for (int64_t n = 0; n < channels; n += kStagedChannels) {
      const int64_t count = channels - n < kStagedChannels ? channels - n : kStagedChannels;
      const int64_t at_once = kStaged / count;
      for (int64_t p = 0; p < pixels; p += at_once) {
        const int64_t some = pixels - p < at_once ? pixels - p : at_once;
        finish(i, y, x + p, some, n0 + n, count, acc + p * ld + n, ld, staged);
        for (int t = 0; t < target_count; ++t) {
          if (after[t].table) look_up(t, i, y, x + p, some, n0 + n, count, staged[t]);
        }
      }
    }
  }

 private:
  static constexpr int64_t kStaged = 2048;
  static constexpr int64_t kStagedChannels = 512;

  // staged: where the codes of targets with a table go first.
  void finish(int64_t i, int64_t y, int64_t x, int64_t pixels, int64_t n0, int64_t channels, const int32_t* acc, int64_t ld,
              uint8_t (*staged)[kStaged]) const {
    Target at[kMaxTargets];
    for (int t = 0; t < target_count; ++t) {
      at[t] = targets[t];
      at[t].pixel = places[t].pixel;
      const int64_t offset = places[t].offset(i, y, x) + n0;
      if (at[t].codes) at[t].codes += offset;
      if (at[t].floats) at[t].floats += offset;
      if (at[t].thresholds) {
        at[t].thresholds += n0 * at[t].max_code;
        at[t].flip += n0;
      }
      if (after[t].table) {
        at[t].codes = staged[t];
        at[t].pixel = channels;
      }
    }
    Finish f{};
    f.acc = acc;
    f.ld = ld;
    f.pixels = pixels;
    f.channels = channels;
    f.scale = one_scale ? scale : scale + n0;
    f.one_scale = one_scale;
    f.bias = bias ? bias + n0 : nullptr;
    if (residual) {
      f.residual = residual + residual_place.offset(i, y, x) + n0;
      f.residual_pixel = residual_place.pixel;
      f.residual_scale = residual_scale;
      f.residual_zero = residual_zero;
    }
    f.low = low;
    f.high = high;
    f.step = step && !one_scale ? step + n0 : step;
    f.step_offset = step_offset ? step_offset + n0 : nullptr;
    f.step_zero = step_zero;
    f.targets = at;
    f.target_count = target_count;
    ops->finish(f);
  }

  void look_up(int t, int64_t i, int64_t y, int64_t x, int64_t pixels, int64_t n0, int64_t channels, const uint8_t* codes) const {
    const After& a = after[t];
    uint8_t* out = targets[t].codes + places[t].offset(i, y, x) + n0;
    const uint8_t* other = a.other ? a.other + a.other_place.offset(i, y, x) + n0 : nullptr;
    const bool dense = places[t].pixel == channels && (!other || a.other_place.pixel == channels);
    const int64_t count = dense ? pixels * channels : channels;
    for (int64_t p = 0; p < (dense ? 1 : pixels); ++p) {
      const uint8_t* from = codes + p * channels;
      uint8_t* to = out + p * places[t].pixel;
      if (other) {
        ops->lookup_pairs(from, other + p * a.other_place.pixel, count, a.table, a.bits, a.index_bits, to);
      } else {
        ops->lookup(from, count, a.table, a.bits, to);
      }
    }
  }
};

}  // namespace ulp
