// mul8 on x86: vpmaddubsw with deferred widening, for vectors of either width.
//
//   A: the codes themselves, u8, read straight from their rows: one vpbroadcastd gives four k of a row.
//   Panel: code - 2^(b-1), s8 (panel_codes.h).
//   vpmaddubsw gives sums of two products in s16; they gather there for `spill_every` steps, then vpmaddwd with ones makes columns of
//   int32.
//
//   KernelAtBits. A step adds two products of at most m = (2^a - 1) 2^(b-1) to an s16 lane, so spill_every = floor(32767 / (2 m)) steps are
//   exact: 585 for W3A3, 136 for W4A4, 33, 8, 2 for W5A5, W6A6, W7A7, and none for W8A8.
#pragma once

#include "panel_codes.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

constexpr int spill_every(int a_bits, int b_bits) {
  return accumulation_length(32767, 2, max_product(a_bits, 0, b_bits, 1 << (b_bits - 1)));
}
static_assert(spill_every(3, 3) == 585 && spill_every(4, 4) == 136 && spill_every(5, 5) == 33, "deferred widening");
static_assert(spill_every(6, 6) == 8 && spill_every(7, 7) == 2 && spill_every(8, 7) == 1 && spill_every(8, 8) == 0, "deferred widening");

// max_kc: where spills are rare; frequent ones need their room in L1 beside the panel (AVX2: W6A6 at K = 1024 runs at 120, not 89).
template <class Op>
KernelAtBits bind_mul8(int a_bits, int b_bits, int64_t max_kc) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = spill_every(a_bits, b_bits);
  b.max_kc = b.spill_every >= 64 ? max_kc : max_kc / 2;
  b.step_k = Op::kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = expand_signed_codes(b_bits);
  b.run = run<Op>;
  return b;
}

}  // namespace
}  // namespace ulp
