// The codes of an epilogue by one fused multiply-add per sum: what Finish computes in four roundings,
//
//     code = clamp(rint((float(acc) * scale + bias) * inverse) + zero),
//
// as clamp(rint(fma(float(acc), step, offset))), with a step and an offset that give the same code for every sum that can come. Both forms
// are monotone in acc, so they agree everywhere if they agree on both sides of every sum at which the first form's code changes. The search
// starts from step = scale * inverse, offset = bias * inverse + zero, and moves the offset until they agree there.
//
// rint rounds a half to the even neighbour, so a zero may be part of the offset if it is even; an odd one is added behind.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "portable_codes.h"

namespace ulp {

class OneStep {
 public:
  // largest_sum: in magnitude.
  OneStep(const Target& target, float low, float high, int64_t largest_sum)
      : target_(target), low_(low), high_(high), largest_(largest_sum), lowest_(code_of(low, target)), highest_(code_of(high, target)) {}

  // Sums must be exact in float32.
  bool is_possible() const { return largest_ <= int64_t{1} << 24; }
  static int folded_zero(int zero) { return zero % 2 == 0 ? zero : 0; }

  // The numbers of one channel. False where none are found.
  bool find(float scale, float bias, float& step, float& offset) const {
    const float magnitude = std::abs(scale);  // a negative scale counts sums from the other end
    const double inverse = static_cast<double>(target_.inverse);
    const int folded = folded_zero(target_.zero);
    step = static_cast<float>(static_cast<double>(magnitude) * inverse);
    offset = static_cast<float>(static_cast<double>(bias) * inverse + folded);
    if (!std::isfinite(step) || !std::isfinite(offset)) return false;
    if (!std::isnormal(step)) {  // a channel without weights
      step = 0;
      const int code = finished(largest_, magnitude, bias);
      return finished(-largest_, magnitude, bias) == code && stepped(0, step, offset) == code;
    }
    int64_t change[256];  // the smallest sum of at least this code
    for (int code = lowest_ + 1; code <= highest_; ++code) {
      if (!find_change(magnitude, bias, code, change[code])) return false;
    }
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      double up = 0, down = 0;  // what the offset lacks, and has too much
      for (int code = lowest_ + 1; code <= highest_; ++code) {
        const double edge = code - 0.5 - (target_.zero - folded);
        const auto over = [&](int64_t acc) {
          return static_cast<double>(acc) * static_cast<double>(step) + static_cast<double>(offset) - edge;
        };
        const int64_t at = change[code];
        if (at <= largest_ && stepped(at, step, offset) < code) up = std::max({up, -over(at), kLeast});
        if (at > -largest_ && stepped(at - 1, step, offset) >= code) down = std::max({down, over(at - 1), kLeast});
      }
      if (up == 0 && down == 0) {
        if (scale < 0) step = -step;
        return true;
      }
      if (up > 0 && down > 0) return false;
      const float next = std::nextafter(offset, up > 0 ? kInfinity : -kInfinity);
      const float moved = static_cast<float>(static_cast<double>(offset) + up - down);
      offset = up > 0 ? std::max(next, moved) : std::min(next, moved);
    }
    return false;
  }

 private:
  static constexpr int kAttempts = 16;
  static constexpr int kWalk = 64;
  static constexpr double kLeast = 1e-12;
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  int finished(int64_t acc, float scale, float bias) const {
    return code_of(bounded(static_cast<float>(acc) * scale + bias, low_, high_), target_);
  }

  int stepped(int64_t acc, float step, float offset) const {
    const float x = std::nearbyint(std::fma(static_cast<float>(acc), step, offset));
    const int code = static_cast<int>(std::clamp(x, -1000.0f, 1000.0f)) + target_.zero - folded_zero(target_.zero);
    return std::clamp(code, lowest_, highest_);
  }

  bool find_change(float scale, float bias, int code, int64_t& at) const {
    const double value = (code - 0.5 - target_.zero) / static_cast<double>(target_.inverse);
    const double guess = std::ceil((value - static_cast<double>(bias)) / static_cast<double>(scale));
    const double limit = static_cast<double>(largest_);
    at = static_cast<int64_t>(std::clamp(guess, -limit, limit + 1));
    for (int walked = 0; walked < kWalk; ++walked) {
      if (at > -largest_ && finished(at - 1, scale, bias) >= code) {
        --at;
      } else if (at <= largest_ && finished(at, scale, bias) < code) {
        ++at;
      } else {
        return true;
      }
    }
    return false;
  }

  const Target& target_;
  float low_, high_;
  int64_t largest_;
  int lowest_, highest_;
};

}  // namespace ulp
