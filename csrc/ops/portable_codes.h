// From values to codes in plain C++, for the portable table and for loops that compilers turn into vectors of an ISA.
#pragma once

#include "ops.h"

namespace ulp {
namespace {

// Adding 1.5 * 2^23 to |x| < 2^22 leaves no bits for a fraction: the FPU's own rounding, half to even, does the work, and it vectorises.
inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

// A bound replaces what is beyond it, and nothing else.
inline float bounded(float v, float low, float high) {
  const float raised = low > v ? low : v;
  return high < raised ? high : raised;
}

// The forms of these two decide what becomes of a NaN (the bound) and which zero wins (the bound's): as in SSE's minps and maxps.
inline float at_least(float v, float low) { return v > low ? v : low; }
inline float at_most(float v, float high) { return v < high ? v : high; }

// The code of a value in units of the scale.
inline uint8_t code_of_steps(float steps, const Target& t) {
  const float clamped = at_most(at_least(steps, static_cast<float>(-t.zero)), static_cast<float>(t.max_code - t.zero));
  return static_cast<uint8_t>(static_cast<int>(round_half_even(clamped)) + t.zero);
}

inline uint8_t code_of(float v, const Target& t) { return code_of_steps(v * t.inverse, t); }

}  // namespace
}  // namespace ulp
