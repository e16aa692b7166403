// What the steps of a plan (plan.h) are made of besides matrix products: one function pointer each, in a table per ISA.
//
// An activation is an image of codes, NHWC, one byte each; the code `zero` stands for 0.0. All functions but those of windows work on runs:
// pixels that follow one another in one row of an image. They own nothing: no allocation, no threads, no state. The portable table is the
// reference; an ISA replaces what it makes faster, and must give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../gemm/isa.h"

namespace ulp {

// Where the finished values of a run go: codes, or floats if `codes` is nullptr. Pointers are to channel 0 of the run's first pixel.
struct Target {
  uint8_t* codes;
  float* floats;
  int64_t pixel;  // elements from a pixel to the next
  // code = clamp(rint(v * inverse) + zero, 0, max_code), rounded half to even
  float inverse;
  int zero;
  int max_code;
  // Of a target of Finish: |v * inverse| is below 2^30, roundings included, whatever the sums; where it is not known, false.
  bool fits_int32;
  // Or, if not nullptr: code = how many of the max_code thresholds of channel c are <= (acc ^ flip[c]), ascending;
  // `thresholds` is channels x max_code, `flip` has 0 or -1 per channel (-1 reverses the order: ~acc = -acc - 1).
  const int32_t* thresholds;
  const int32_t* flip;
  // Added to each code modulo 256, for signed outputs; 0 with thresholds.
  uint8_t offset;
};

// The epilogue of `pixels` pixels x `channels` channels:
//
//     v = float(acc) * scale[c] + bias[c]             each operation rounded to float32
//     v = v + float(residual - residual_zero) * residual_scale      where there is a residual
//     v = min(max(v, low), high)                      ReLU: low = 0; ReLU6: high = 6; none: -inf, inf
//
// and then each target. A bound replaces v only where v is beyond it: a NaN stays, and a zero keeps its sign. A target of codes needs v to
// be a number: scale is finite and inverse > 0, and where there is a bias or a residual, 2^31 * scale, bias and 255 * residual_scale are
// finite.
struct Finish {
  const int32_t* acc;
  int64_t ld;  // elements from a pixel to the next
  int64_t pixels;
  int64_t channels;
  const float* scale;  // channels values, or one
  bool one_scale;
  const float* bias;        // channels values; nullptr: none is added
  const uint8_t* residual;  // nullptr: none
  int64_t residual_pixel;
  float residual_scale;
  int residual_zero;
  float low;
  float high;
  const Target* targets;
  int target_count;
  // Where not nullptr, of a first and only target, of codes that fit int32, without residual: the same code is that of
  // rint(fma(float(acc), step[c], step_offset[c])) + step_zero (one_step.h). One step where there is one scale; no offsets: 0.
  const float* step;
  const float* step_offset;
  int step_zero;
};

// What a combination reads: codes, (u - zero) * scale, or floats if `codes` is nullptr. Pointers are to channel 0 of the run's first pixel.
struct Operand {
  const uint8_t* codes;
  const float* floats;
  int64_t pixel;  // elements from a pixel to the next; 0: one pixel for all
  float scale;
  int zero;
};

inline constexpr int kMaxOperands = 4;

// v = the sum of the operands, or with `multiply` their product, in their order, each operation rounded to float32; then a clamp and the
// targets, as for Finish. divisors: nullptr, or one per target: code = clamp(rint(v / divisor) + zero, 0, max_code). Codes are in range
// whatever v is.
struct Combination {
  Operand operands[kMaxOperands];
  int operand_count;
  bool multiply;
  int64_t pixels;
  int64_t channels;
  float low;
  float high;
  const Target* targets;  // without thresholds and offset
  const float* divisors;
  int target_count;
};

// One window of an image: rows y0 .. y1 - 1 in steps of y_step, columns x0 .. x1 - 1 in steps of x_step, of codes at `a` (pixel 0, 0). Not
// empty.
struct Window {
  const uint8_t* a;
  int64_t row;    // bytes from a row to the next
  int64_t pixel;  // bytes from a pixel to the next
  int y0, y1, y_step;
  int x0, x1, x_step;
  int64_t channels;
};

struct Ops {
  void (*finish)(const Finish& f);
  // out[c] = the largest code in the window. 32 bytes behind the channels of each pixel are readable; exactly `channels` are written.
  void (*window_max)(const Window& w, uint8_t* out);
  // out[c] = the sum of the codes in the window, at most 2^31 - 1.
  void (*window_sum)(const Window& w, int32_t* out);
  // Planes of floats (channel c of pixel p at x[c * plane + p]) -> targets' codes, `pixels` pixels of one row of the image; v = x. Pads
  // nothing. False if a value is not finite; the codes are then unspecified (but in range).
  bool (*quantize)(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count);
  // out[p] = sum over channels of a[p * pixel + c]: what row terms (gemm/zero_points.h) are made of, which bipolar weights need, and
  // weights with a zero point.
  void (*channel_sum)(const uint8_t* a, int64_t pixel, int64_t pixels, int64_t channels, int32_t* out);
  // x[p * pixel + c] -> out[c * plane + p].
  void (*to_planes)(const float* x, int64_t pixel, int64_t pixels, int64_t channels, float* out, int64_t plane);
  // out[i] = table[a[i]]. table: 256 bytes; the codes have `bits` bits.
  void (*lookup)(const uint8_t* a, int64_t count, const uint8_t* table, int bits, uint8_t* out);
  // out[i] = table[a[i] | b[i] << a_bits]. table: 256 bytes; two codes together have `bits` bits, at most 8.
  void (*lookup_pairs)(const uint8_t* a, const uint8_t* b, int64_t count, const uint8_t* table, int a_bits, int bits, uint8_t* out);
  void (*combine)(const Combination& f);
};

// The table for an ISA.
const Ops& ops(Isa isa);

}  // namespace ulp
