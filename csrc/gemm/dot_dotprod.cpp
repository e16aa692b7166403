// dot on ARM's dot product: sdot by lane, tile 3 x 32, every pair.
//
//   A: codes, read from their rows 16 k at a time; 8-bit ones are centred (and packed for it), so that they are s8.
//   Panel: code - 2^(b-1) as s8, 8 columns x 4 k in two registers (multiply_neon.h): sdot takes a 32-bit lane of A against each column's.
//   KernelAtBits: four products go to s32, which wraps modulo 2^32, as the driver expects.
//
// Ceiling: 24 sums, two registers of panel and three of A: 24 sdot and 8.75 loads per step, so the two sdot per cycle of a Neoverse N1
// bind.
#include "multiply_neon.h"

namespace ulp::dot_dotprod {
namespace {

struct Dot {
  static constexpr int kRows = 3;
  static constexpr int kVecs = kPanelUnits;
  static constexpr int kStepK = 4;
  static constexpr bool kSpills = false;
  static constexpr bool kAdds = false;

  using Acc = Vec;

  // In assembly, and volatile, because compilers hoist loads of the panel, run out of registers and spill sums (gcc 12: 300 accesses to the
  // stack in a tile).
  template <int lane>
  static ULP_INLINE void multiply_add(uint8x16_t& acc, uint8x16_t b, uint8x16_t a) {
    __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[%c3]" : "+w"(acc) : "w"(b), "w"(a), "i"(lane));
  }

  // acc += step `lane` of x.
  template <int lane, int rows, int units>
  static ULP_INLINE void step(const uint8x16_t (&x)[rows], const uint8_t* b, Vec (&acc)[rows][units]) {
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      const Vec y = load(b + u * kVector);
      ULP_UNROLL for (int r = 0; r < rows; ++r) multiply_add<lane>(acc[r][u].lo, y.lo, x[r]);
      ULP_UNROLL for (int r = 0; r < rows; ++r) multiply_add<lane>(acc[r][u].hi, y.hi, x[r]);
    }
  }

  template <int rows, int units>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, int64_t stride, const Piece* pieces, int64_t count,
                                  Vec (&acc)[rows][units]) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = zero(); }
    uint8x16_t x[rows];
    for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
      int64_t at = piece->a;
      int64_t left = piece->steps;
      for (; left >= 4; left -= 4, at += 16) {
        ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = vld1q_u8(a[r] + at);
        step<0>(x, b, acc);
        step<1>(x, b + stride, acc);
        step<2>(x, b + 2 * stride, acc);
        step<3>(x, b + 3 * stride, acc);
        b += 4 * stride;
      }
      for (; left > 0; --left, at += 4, b += stride) {
        ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = broadcast4(a[r] + at);
        step<0>(x, b, acc);
      }
    }
  }

  static ULP_INLINE Vec widen(Vec acc) { return acc; }
};

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int a_bits, int b_bits) { return bind_signed(a_bits, b_bits, Dot::kStepK, run<Dot>); }

}  // namespace ulp::dot_dotprod
