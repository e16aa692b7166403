// mul8 on NEON: the 8-bit multiply with 8-bit sums, tile 3 x 32, two levels of sums.
//
//   A: codes, four k of a row in all lanes of a register by ld1r; centred (and packed for it) where that lets sums gather for longer.
//   Panel: code - 2^(b-1) as s8, 8 columns x 4 k in two registers, as for vpmaddubsw (multiply_neon.h); negated where A is centred.
//
//   mla.16b, 16 products per instruction, each in a lane of its own: `local` steps, the first by mul, then sadalp into s16.
//   KernelAtBits. With both operands centred the extreme product is (-2^(a-1)) (-2^(b-1)), the one that s8 has no room for at W4A4; negated
//   weights turn it into -2^(a+b-2), which s8 has: products lie in [lo, hi] and local = min(128 / -lo, 127 / hi): 32 steps for W2A2, 8 for
//   W3A3, 2 for W4A4, W5A3 and W6A2. Uncentred A needs no packing, so it is left alone where 16 steps fit anyway. Then s16: two lanes join,
//   so a run may have floor(32767 / (2 max(-lo, hi))) steps.
#include "multiply_neon.h"

namespace ulp::mul8_neon {
namespace {

// Multiplies are in assembly, and volatile, because compilers hoist loads of the panel, run out of registers and spill sums.
struct Mla {
  static constexpr int kRows = 3;
  static constexpr int kVecs = 2;
  static constexpr int kStepK = 4;
  static constexpr bool kSpills = true;
  static constexpr bool kAdds = false;

  using Local = Vec;
  struct Acc {
    int16x8_t lo = vdupq_n_s16(0);
    int16x8_t hi = vdupq_n_s16(0);
  };

  static ULP_INLINE void first(Local& sum, uint8x16_t a, Vec b) {
    __asm__ volatile("mul %0.16b, %1.16b, %2.16b" : "=w"(sum.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mul %0.16b, %1.16b, %2.16b" : "=w"(sum.hi) : "w"(b.hi), "w"(a));
  }
  static ULP_INLINE void next(Local& sum, uint8x16_t a, Vec b) {
    __asm__ volatile("mla %0.16b, %1.16b, %2.16b" : "+w"(sum.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mla %0.16b, %1.16b, %2.16b" : "+w"(sum.hi) : "w"(b.hi), "w"(a));
  }
  static ULP_INLINE void join(Acc& acc, const Local& sum) {
    acc.lo = vpadalq_s8(acc.lo, vreinterpretq_s8_u8(sum.lo));
    acc.hi = vpadalq_s8(acc.hi, vreinterpretq_s8_u8(sum.hi));
  }
  static ULP_INLINE Vec widen(const Acc& acc) { return as_vec(vpaddlq_s16(acc.lo), vpaddlq_s16(acc.hi)); }
};

// Of negated weights.
struct NegatedMla : Mla {
  static ULP_INLINE Vec widen(const Acc& acc) { return as_vec(vnegq_s32(vpaddlq_s16(acc.lo)), vnegq_s32(vpaddlq_s16(acc.hi))); }
};

struct Extent {
  int lo;
  int hi;
};

// Smallest and largest product of mul8.
constexpr Extent products(int a_bits, bool a_centred, int b_bits) {
  const int a_lo = a_centred ? -centre_of(a_bits) : 0;
  const int a_hi = (1 << a_bits) - 1 + a_lo;
  const int b_min = -centre_of(b_bits);
  const int b_max = (1 << b_bits) - 1 + b_min;
  const int b_lo = a_centred ? -b_max : b_min;
  const int b_hi = a_centred ? -b_min : b_max;
  Extent e{0, 0};
  for (const int product : {a_lo * b_lo, a_lo * b_hi, a_hi * b_lo, a_hi * b_hi}) {
    e.lo = product < e.lo ? product : e.lo;
    e.hi = product > e.hi ? product : e.hi;
  }
  return e;
}

constexpr int mla_steps(Extent e) {
  const int below = e.lo < 0 ? 128 / -e.lo : 128;
  const int above = e.hi > 0 ? 127 / e.hi : 128;
  return below < above ? below : above;
}
constexpr bool centres_a(int a_bits, int b_bits) { return mla_steps(products(a_bits, false, b_bits)) < 16; }
constexpr Extent products(int a_bits, int b_bits) { return products(a_bits, centres_a(a_bits, b_bits), b_bits); }
static_assert(mla_steps(products(1, 1)) == 127 && mla_steps(products(2, 2)) == 21 && mla_steps(products(3, 3)) == 8, "s8 sums");
static_assert(mla_steps(products(4, 4)) == 2 && mla_steps(products(5, 3)) == 2 && mla_steps(products(6, 2)) == 2, "s8 sums");
static_assert(mla_steps(products(5, 4)) == 1 && mla_steps(products(7, 2)) == 1, "s8 sums");

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return mla_steps(products(a_bits, b_bits)) >= 2; });

KernelAtBits bind(int a_bits, int b_bits) {
  const Extent e = products(a_bits, b_bits);
  const int local = rounded_steps(mla_steps(e));
  KernelAtBits b;
  b.centre_b = centre_of(b_bits);
  b.spill_every = accumulation_length(32767, 2, max_abs(e.lo, e.hi));
  b.max_kc = 512;
  b.step_k = Mla::kStepK;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  if (centres_a(a_bits, b_bits)) {
    b.centre_a = centre_of(a_bits);
    b.pack_a = for_bits(a_bits, [](auto bits) { return &centre_a<centre_of(decltype(bits)::value)>; });
    b.expand = for_bits(b_bits, [](auto bits) { return &expand_signed<decltype(bits)::value, true>; });
    b.run = run_of_steps<NegatedMla>(local);
  } else {
    b.expand = for_bits(b_bits, [](auto bits) { return &expand_signed<decltype(bits)::value, false>; });
    b.run = run_of_steps<Mla>(local);
  }
  return b;
}

}  // namespace ulp::mul8_neon
