// Two of the Vector16 that the including file defines, for long chains of operations: those of one wait for each other, and of two, side by
// side, take hardly longer.
#pragma once

#include "../gemm/kernel_util.h"

namespace ulp {
namespace {

struct Vector32 {
  Vector16 low, high;

  static ULP_INLINE Vector32 all(float x) { return {Vector16::all(x), Vector16::all(x)}; }
  ULP_INLINE Vector32 operator+(Vector32 o) const { return {low + o.low, high + o.high}; }
  ULP_INLINE Vector32 operator-(Vector32 o) const { return {low - o.low, high - o.high}; }
  ULP_INLINE Vector32 operator*(Vector32 o) const { return {low * o.low, high * o.high}; }
  ULP_INLINE Vector32 operator/(Vector32 o) const { return {low / o.low, high / o.high}; }
  ULP_INLINE Vector32 fma(Vector32 b, Vector32 c) const { return {low.fma(b.low, c.low), high.fma(b.high, c.high)}; }
  ULP_INLINE Vector32 max(Vector32 o) const { return {low.max(o.low), high.max(o.high)}; }
  ULP_INLINE Vector32 min(Vector32 o) const { return {low.min(o.low), high.min(o.high)}; }
  ULP_INLINE Vector32 rint() const { return {low.rint(), high.rint()}; }
  ULP_INLINE Vector32 times_power_of_2(Vector32 n) const { return {low.times_power_of_2(n.low), high.times_power_of_2(n.high)}; }
  ULP_INLINE Vector32 magnitude() const { return {low.magnitude(), high.magnitude()}; }
  ULP_INLINE Vector32 below(Vector32 limit, Vector32 a, Vector32 b) const {
    return {low.below(limit.low, a.low, b.low), high.below(limit.high, a.high, b.high)};
  }
};

}  // namespace
}  // namespace ulp
