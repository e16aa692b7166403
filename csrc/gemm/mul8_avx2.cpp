// mul8 on AVX2: vpmaddubsw with deferred widening, tile 3 x 32.
//
//   A: the codes themselves, u8, read straight from their rows: one vpbroadcastd gives four k of a row.
//   Panel: code - 2^(b-1), s8, one 32-byte vector = 8 columns x 4 k:   | step 0: unit 0 .. 3 | step 1: unit 0 .. 3 | ...
//   vpmaddubsw gives 16 sums of two products; they gather in s16 for `spill_every` steps, then vpmaddwd with ones makes 8 columns of int32.
//
//   KernelAtBits. A step adds two products of at most m = (2^a - 1) 2^(b-1) to an s16 lane, so spill_every = floor(32767 / (2 m)) steps are
//   exact: 585 for W3A3, 136 for W4A4, 33, 8, 2 for W5A5, W6A6, W7A7, and none for W8A8.
//
//   Ceiling on Zen 3: 2 x 12 vector operations per step at 3.03 per cycle = 7.9 cycles for 384 multiply-accumulates, 48 per cycle. Twelve
//   accumulators leave four registers: rows 0 and 1 share each load of B, row 2 takes B from memory, 11 loads per step where two per cycle
//   may go.
#include "tile_multiply_avx2.h"

namespace ulp::mul8_avx2 {
namespace {

constexpr int spill_every(int a_bits, int b_bits) {
  return accumulation_length(32767, 2, max_product(a_bits, 0, b_bits, 1 << (b_bits - 1)));
}
static_assert(spill_every(3, 3) == 585 && spill_every(4, 4) == 136 && spill_every(5, 5) == 33, "deferred widening");
static_assert(spill_every(6, 6) == 8 && spill_every(7, 7) == 2 && spill_every(8, 7) == 1 && spill_every(8, 8) == 0, "deferred widening");

}  // namespace

bool supports(int a_bits, int b_bits) { return spill_every(a_bits, b_bits) > 0; }

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.centre_b = 1 << (b_bits - 1);
  b.spill_every = spill_every(a_bits, b_bits);
  b.max_kc =
      b.spill_every >= 64 ? 1024 : 512;  // frequent spills need their room in L1 beside the panel: W6A6 at K = 1024 runs at 120, not 89
  b.step_k = Mul8::kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  b.expand = expand_signed_codes(b_bits);
  b.run = run<Op<Mul8>>;
  return b;
}

}  // namespace ulp::mul8_avx2
