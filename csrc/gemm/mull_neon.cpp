// mull on NEON: the long multiply with 16-bit sums, tile 3 x 32, two levels of sums; every pair.
//
//   A: codes, four k of a row in all lanes of a register by ld1r; 8-bit ones are centred (and packed for it), so that they are s8.
//   Panel: code - 2^(b-1) as s8, 8 columns x 4 k in two registers (multiply_neon.h).
//
//   smull, smlal: 8 products per instruction, `local` steps in s16, then sadalp into s32.
//   KernelAtBits. local = floor(32767 / max|product|): 2 steps for W8A7, 4 for W7A7 and 1 for W8A8, whose product reaches 2^14.
//   s32 wraps modulo 2^32, as the driver expects.
#include "multiply_neon.h"

namespace ulp::mull_neon {
namespace {

// In assembly, and volatile, for the reason given in mul8_neon.cpp.
struct Mull {
  static constexpr int kRows = 3;
  static constexpr int kVecs = 1;
  static constexpr int kStepK = 4;
  static constexpr bool kSpills = false;
  static constexpr bool kAdds = false;

  struct Local {
    int16x8_t columns[4];  // two columns each
  };
  struct Acc {
    int32x4_t columns[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  };

  static ULP_INLINE void first(Local& sum, uint8x16_t a, Vec b) {
    __asm__ volatile("smull %0.8h, %1.8b, %2.8b" : "=w"(sum.columns[0]) : "w"(b.lo), "w"(a));
    __asm__ volatile("smull2 %0.8h, %1.16b, %2.16b" : "=w"(sum.columns[1]) : "w"(b.lo), "w"(a));
    __asm__ volatile("smull %0.8h, %1.8b, %2.8b" : "=w"(sum.columns[2]) : "w"(b.hi), "w"(a));
    __asm__ volatile("smull2 %0.8h, %1.16b, %2.16b" : "=w"(sum.columns[3]) : "w"(b.hi), "w"(a));
  }
  static ULP_INLINE void next(Local& sum, uint8x16_t a, Vec b) {
    __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum.columns[0]) : "w"(b.lo), "w"(a));
    __asm__ volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(sum.columns[1]) : "w"(b.lo), "w"(a));
    __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum.columns[2]) : "w"(b.hi), "w"(a));
    __asm__ volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(sum.columns[3]) : "w"(b.hi), "w"(a));
  }
  static ULP_INLINE void join(Acc& acc, const Local& sum) {
    ULP_UNROLL for (int i = 0; i < 4; ++i) acc.columns[i] = vpadalq_s16(acc.columns[i], sum.columns[i]);
  }
  static ULP_INLINE Vec widen(const Acc& acc) {
    return as_vec(vpaddq_s32(acc.columns[0], acc.columns[1]), vpaddq_s32(acc.columns[2], acc.columns[3]));
  }
};

constexpr int mull_steps(int a_bits, int b_bits) {
  return accumulation_length(32767, 1, max_product(a_bits, a_bits == 8 ? 128 : 0, b_bits, centre_of(b_bits)));
}
static_assert(mull_steps(8, 8) == 1 && mull_steps(7, 7) == 4 && mull_steps(7, 8) == 2 && mull_steps(5, 5) == 66, "s16 sums");

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) {
  return bind_signed(a_bits, b_bits, Mull::kStepK, run_of_steps<Mull>(rounded_steps(mull_steps(a_bits, b_bits))));
}

}  // namespace ulp::mull_neon
