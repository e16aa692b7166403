// What the multiplying kernels of ARM share: panels of signed codes in steps of 4 k, and the Op of tile_multiply.h with two levels of sums.
#pragma once

#include "bitpacked_neon.h"
#include "tile_multiply.h"

namespace ulp {
namespace {

// | step 0: unit 0 .. 3 | step 1: ...  of code - 2^(b-1) (1 bit: the code itself), or of its negative.
template <int bits, bool negated>
void expand_signed(const BitpackedSlice& s, uint8_t* panel) {
  const uint8x16_t centre = vdupq_n_u8(bits == 1 ? 0 : 1 << (bits - 1));
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        store(panel + ((kb * 8 + j) * s.units + u) * kVector,
              halves(v[j], [centre](uint8x16_t x) { return negated ? vsubq_u8(centre, x) : vsubq_u8(x, centre); }));
      }
    }
  }
}

constexpr int centre_of(int bits) { return bits == 1 ? 0 : 1 << (bits - 1); }

// The largest of 1, 2, 4, 8, 16 that is at most `steps`.
constexpr int rounded_steps(int steps) { return steps >= 16 ? 16 : steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : steps; }

template <int centre>
void centre_a(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  centre_rows(codes, stride, rows, k32, out, out_stride, centre);
}

// Kernels on panels of expand_signed whose sums of 32 bits wrap modulo 2^32, so that nothing is spilled. 8-bit A is centred (and packed for
// it), so that it is an s8.
inline KernelAtBits bind_signed(int a_bits, int b_bits, int step_k, void (*run)(const Tile&)) {
  KernelAtBits b;
  b.centre_b = centre_of(b_bits);
  b.spill_every = 1 << 30;
  b.max_kc = 512;
  b.step_k = step_k;
  b.any_start = true;
  b.panel_bytes = kUnitCodes;
  if (a_bits == 8) {
    b.centre_a = 128;
    b.pack_a = centre_a<128>;
  }
  b.expand = for_bits(b_bits, [](auto bits) { return &expand_signed<decltype(bits)::value, false>; });
  b.run = run;
  return b;
}

// M multiplies and gathers `local` steps in Local, which then join Acc:
//   first(local, a, b), next(local, a, b)   a step: set, add; a: four k of a row in all lanes, b: Vec of panel
//   join(acc, local)
template <class M, int local>
struct TwoLevels : M {
  using Acc = typename M::Acc;

  template <bool first, int rows, int units>
  static ULP_INLINE void step(const uint8x16_t (&x)[rows], const uint8_t*& b, int64_t stride, typename M::Local (&sum)[rows][units]) {
    ULP_UNROLL for (int u = 0; u < units; ++u) {
      const Vec y = load(b + u * kVector);
      ULP_UNROLL for (int r = 0; r < rows; ++r) {
        if constexpr (first) {
          M::first(sum[r][u], x[r], y);
        } else {
          M::next(sum[r][u], x[r], y);
        }
      }
    }
    b += stride;
  }

  template <bool first, int rows, int units>
  static ULP_INLINE void one_step(const uint8_t* const (&a)[rows], int64_t at, const uint8_t*& b, int64_t stride,
                                  typename M::Local (&sum)[rows][units]) {
    uint8x16_t x[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = broadcast4(a[r] + at);
    step<first>(x, b, stride, sum);
  }

  template <bool first, int i, int rows, int units>
  static ULP_INLINE void step_of_four(const uint32x4_t (&four)[rows], const uint8_t*& b, int64_t stride,
                                      typename M::Local (&sum)[rows][units]) {
    uint8x16_t x[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) x[r] = vreinterpretq_u8_u32(vdupq_laneq_u32(four[r], i));
    step<first>(x, b, stride, sum);
  }

  // 16 k of a row in one load: an in-order core takes four cycles for each ld1r. No loop, which would leave the sums in memory.
  template <bool first, int rows, int units>
  static ULP_INLINE void four_steps(const uint8_t* const (&a)[rows], int64_t at, const uint8_t*& b, int64_t stride,
                                    typename M::Local (&sum)[rows][units]) {
    uint32x4_t four[rows];
    ULP_UNROLL for (int r = 0; r < rows; ++r) four[r] = vreinterpretq_u32_u8(vld1q_u8(a[r] + at));
    step_of_four<first, 0>(four, b, stride, sum);
    step_of_four<false, 1>(four, b, stride, sum);
    step_of_four<false, 2>(four, b, stride, sum);
    step_of_four<false, 3>(four, b, stride, sum);
  }

  template <int rows, int units>
  static ULP_INLINE void multiply(const uint8_t* const (&a)[rows], const uint8_t*& b, int64_t stride, const Piece* pieces, int64_t count,
                                  Acc (&acc)[rows][units]) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) acc[r][u] = Acc{}; }
    for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
      int64_t at = piece->a;
      for (int64_t left = piece->steps; left > 0;) {
        typename M::Local sum[rows][units];
        if (local < 4 && left >= local) {
          one_step<true>(a, at, b, stride, sum);
          at += 4;
          ULP_UNROLL for (int i = 1; i < local; ++i, at += 4) one_step<false>(a, at, b, stride, sum);
        } else {
          const int64_t end = at + 4 * (left < local ? left : local);
          if (local >= 4 && left >= 4) {
            four_steps<true>(a, at, b, stride, sum);
            at += 16;
            for (; local > 4 && end - at >= 16; at += 16) four_steps<false>(a, at, b, stride, sum);
          } else {
            one_step<true>(a, at, b, stride, sum);
            at += 4;
          }
          for (; at < end; at += 4) one_step<false>(a, at, b, stride, sum);
        }
        left -= local;
        ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) M::join(acc[r][u], sum[r][u]); }
      }
    }
  }
};

// run<TwoLevels<M, steps>> for steps known at run time.
template <class M>
void (*run_of_steps(int steps))(const Tile&) {
  switch (steps) {
    case 16:
      return run<TwoLevels<M, 16>>;
    case 8:
      return run<TwoLevels<M, 8>>;
    case 4:
      return run<TwoLevels<M, 4>>;
    case 2:
      return run<TwoLevels<M, 2>>;
    default:
      return run<TwoLevels<M, 1>>;
  }
}

}  // namespace
}  // namespace ulp
