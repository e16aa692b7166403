// Quantizers that are found in the call, of the values that they quantize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../ops/rows.h"

namespace ulp {

// value = (code - zero) * scale.
struct Quantizer {
  float scale = 1.0f;
  int zero = 0;

  // ONNX's DynamicQuantizeLinear, with 2^bits - 1 levels: low and high are the least and the largest of the values and 0. The scale may be
  // infinite, or a NaN.
  static Quantizer of_range(float low, float high, int bits) {
    const float levels = static_cast<float>((1 << bits) - 1);
    const float scale = (high - low) / levels;
    if (scale == 0) return {1.0f, 0};  // all values are 0
    if (!std::isfinite(scale)) return {scale, 0};
    const float zero = std::nearbyint(0.0f - low / scale);
    return {scale, static_cast<int>(std::min(std::max(zero, 0.0f), levels))};
  }

  static Quantizer of(const RowOps& ops, const float* x, int64_t count, int bits) {
    float low, high;
    ops.range(x, count, &low, &high);
    return of_range(low, high, bits);
  }

  // Codes of a row of k values, of which `count` are given. divisor: as for RowOps::quantize. False if a value is not finite.
  bool encode(const RowOps& ops, const float* x, int64_t count, int64_t k, float divisor, int bits, uint8_t* to) const {
    Target t{};
    t.codes = to;
    t.inverse = 1.0f / scale;
    t.zero = zero;
    t.max_code = (1 << bits) - 1;
    const bool finite = ops.quantize(x, count, t, divisor, 0.0f);
    std::memset(to + count, zero, static_cast<size_t>(k - count));
    return finite;
  }
};

}  // namespace ulp
