// Depthwise convolution of some pixels: every channel by itself.
#pragma once

#include <cstdint>

namespace ulp {

// Rows of pixels; acc of pixel p of row r is at r * pixels + p:
//
//     acc[r * pixels + p][c] = start[c] + sum over taps t of a[r * row_step + p * step + taps[t] + c] * weights[t * weight_stride + c]
//
// modulo 2^32; a is unsigned, weights signed. 32 bytes behind the last channel of every tap and of `weights` are readable.
struct Depthwise {
  const uint8_t* a;  // first pixel's window
  int64_t step;      // bytes from a pixel's window to the next one's
  int64_t row_step;  // and from a row's
  const int64_t* taps;
  int tap_count;
  const int8_t* weights;
  int64_t weight_stride;
  int max_product;  // largest |code * weight|: decides how many products 16 bits may hold
  const int32_t* start;
  int64_t rows;
  int64_t pixels;  // of a row
  int64_t channels;
  int32_t* acc;
  int64_t ld;
};

// Row r alone.
static inline Depthwise row_of(const Depthwise& d, int64_t r) {
  Depthwise row = d;
  row.rows = 1;
  row.a += r * d.row_step;
  row.acc += r * d.pixels * d.ld;
  return row;
}

}  // namespace ulp
