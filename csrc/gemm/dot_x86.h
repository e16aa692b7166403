// dot on x86: vpdpbusd, four products of u8 and s8 added to int32, for vectors of either width.
//
//   A: the codes themselves, u8, read straight from their rows: one broadcast gives four k of a row.
//   Panel: code - 2^(b-1), s8 (panel_codes.h).
//   KernelAtBits. Four products go to int32 without saturation (that is vpdpbusds), which wraps modulo 2^32 as the driver expects: every
//   pair is exact, W8A8 too, and nothing is spilled.
#pragma once

#include "tile_registers_x86.h"

namespace ulp {
namespace {

struct Dot {
  static constexpr bool kSpills = false;
  static constexpr bool kAdds = true;
  static ULP_INLINE void add(Vec& sums, Vec x, Vec y) { dot_add(sums, x, y); }
  static ULP_INLINE Vec widen(Vec sums) { return sums; }
};

template <class Op>
KernelAtBits bind_dot(int b_bits, int64_t max_kc) {
  KernelAtBits b;
  b.centre_b = middle(b_bits);
  b.spill_every = 1 << 30;  // nothing to spill
  b.max_kc = max_kc;
  b.step_k = Op::kStepK;
  b.any_start = true;
  b.fetches_ahead = true;
  b.panel_bytes = kUnitCodes;
  b.expand = expand_signed_codes(b_bits);
  b.run = run<Op>;
  return b;
}

}  // namespace
}  // namespace ulp
