// Ops::combine in plain loops over channels, which compilers vectorise for the ISA of the file that includes them.
#pragma once

#include <cstring>

#include "portable_codes.h"

namespace ulp {
namespace {

constexpr int64_t kCombined = 256;  // channels whose values are staged between the loops below

// The values of `count` channels of a pixel.
inline void load_values(const Operand& o, int64_t at, int64_t count, float* v) {
  if (!o.codes) {
    std::memcpy(v, o.floats + at, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const uint8_t* codes = o.codes + at;
  const float scale = o.scale;
  const int zero = o.zero;
  for (int64_t c = 0; c < count; ++c) v[c] = static_cast<float>(codes[c] - zero) * scale;
}

inline void store_values(const Target& target, float divisor, const float* v, int64_t at, int64_t count) {
  if (!target.codes) {
    std::memcpy(target.floats + at, v, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const Target t = target;  // a copy that no store can alias
  uint8_t* out = t.codes + at;
  if (divisor != 0) {
    for (int64_t c = 0; c < count; ++c) out[c] = code_of_steps(v[c] / divisor, t);
  } else {
    for (int64_t c = 0; c < count; ++c) out[c] = code_of(v[c], t);
  }
}

void combine_run(const Combination& f) {
  float v[kCombined];
  float w[kCombined];
  for (int64_t p = 0; p < f.pixels; ++p) {
    for (int64_t begin = 0; begin < f.channels; begin += kCombined) {
      const int64_t count = f.channels - begin < kCombined ? f.channels - begin : kCombined;
      load_values(f.operands[0], p * f.operands[0].pixel + begin, count, v);
      for (int i = 1; i < f.operand_count; ++i) {
        load_values(f.operands[i], p * f.operands[i].pixel + begin, count, w);
        if (f.multiply) {
          for (int64_t c = 0; c < count; ++c) v[c] *= w[c];
        } else {
          for (int64_t c = 0; c < count; ++c) v[c] += w[c];
        }
      }
      for (int64_t c = 0; c < count; ++c) v[c] = bounded(v[c], f.low, f.high);
      for (int i = 0; i < f.target_count; ++i) {
        store_values(f.targets[i], f.divisors ? f.divisors[i] : 0.0f, v, p * f.targets[i].pixel + begin, count);
      }
    }
  }
}

}  // namespace
}  // namespace ulp
