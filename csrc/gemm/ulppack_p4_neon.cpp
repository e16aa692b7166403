// P4 on NEON, a deeper form of ULPPACK's P1, tile 3 x 32.
//
// Four k of one output share a 16-bit lane, d = 4 bits apart and the other way round in the weights. Field i of the product holds the
// products of i + 1 pairs, the fourth field the dot product of four, and the later ones fall off the top:
//
//     sum_i 2^4i a_i  *  sum_i 2^4i w_(3-i)  =  ... + 2^12 (a0 w0 + a1 w1 + a2 w2 + a3 w3)   modulo 2^16
//
//   Bounds, p = 4, m = (2^a - 1)(2^w - 1), L steps between two extractions:
//     the top field:          p L m <= 2^(16 - (p - 1) d) - 1 = 15
//     no carry out of below:  L m (1 + 2 * 2^d + 3 * 2^2d) <= 2^12 - 1
//   The first decides: L = 3 for W1A1, 1 for W1A2 and W2A1. Extracted sums are u16, half of a K-block of 512 each: at most 256 m.
#include "ulppack_neon.h"

namespace ulp::ulppack_p4_neon {
namespace {

struct P4 : P1 {
  static constexpr int kStepK = 8;
  static ULP_INLINE Vec extract(Vec local) {
    return halves(local, [](uint8x16_t v) { return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(v), 12)); });
  }
};

// P4's lane of four codes, in 32 bits.
ULP_INLINE uint32x4_t lane4(uint8x16_t codes) {
  const uint32x4_t x = vreinterpretq_u32_u8(codes);
  const uint32x4_t pairs = vandq_u32(vorrq_u32(x, vshrq_n_u32(x, 4)), vdupq_n_u32(0x00FF00FF));
  return vandq_u32(vorrq_u32(pairs, vshrq_n_u32(pairs, 8)), vdupq_n_u32(0xFFFF));
}

// Codes are masked, so that no field reaches into the next if another thread has changed A since it was checked.
template <int bits>
void pack4(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const uint8x16_t code = vdupq_n_u8((1 << bits) - 1);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const Vec x = load(codes + k);
      const uint16x4_t first = vmovn_u32(lane4(vandq_u8(x.lo, code)));
      vst1q_u8(out + k / 2, vreinterpretq_u8_u16(vmovn_high_u32(first, lane4(vandq_u8(x.hi, code)))));
    }
  }
}

// Two vectors of codes, four k of a column each, make a step.
template <int bits>
void expand4(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 4; ++j) {
        store(panel + ((kb * 4 + j) * s.units + u) * kVector, halves(v[2 * j], v[2 * j + 1], [](uint8x16_t x, uint8x16_t y) {
                return vreinterpretq_u8_u32(vsliq_n_u32(lane4(vrev32q_u8(x)), lane4(vrev32q_u8(y)), 16));
              }));
      }
    }
  }
}

constexpr int length4(int a_bits, int b_bits) { return accumulation_length(15, 4, max_product(a_bits, 0, b_bits, 0)); }
static_assert(length4(1, 1) == 3 && length4(2, 1) == 1 && length4(1, 2) == 1, "the top field");
static_assert(length4(2, 2) == 0 && length4(3, 1) == 0 && length4(1, 3) == 0, "no more than these");
static_assert(4 * 3 * 1 <= 15 && 4 * 1 * 3 <= 15 && 3 * (1 + 2 * 16 + 3 * 256) <= 4095,
              "L m is 3 everywhere: no carry from the lower fields");
static_assert(kMaxKc / 2 * 3 <= 65535, "u16 sums");

}  // namespace

extern constexpr BitPairs pairs = pairs_where([](int a_bits, int b_bits) { return length4(a_bits, b_bits) > 0; });

KernelAtBits bind(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = length4(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.a_bytes = kUnitK / 2;
  b.panel_bytes = kUnitCodes / 2;
  b.pack_a = a_bits == 1 ? pack4<1> : pack4<2>;
  b.expand = b_bits == 1 ? expand4<1> : expand4<2>;
  b.run = b.spill_every == 3 ? run<P4, 3> : run<P4, 1>;
  return b;
}

}  // namespace ulp::ulppack_p4_neon
