// P1 and P2 of ULPPACK (Won et al., MLSys 2022, sections 3 and 4), tile 3 x 32: the method this library started from, for comparison. For
// any instruction set.
//
// Two k of one output share a lane, swapped in one operand, and the middle of the product is their dot product. One multiply of two lanes:
//
//     (a0 + 2^d a1) (w1 + 2^d w0) = a0 w1  +  2^d (a0 w0 + a1 w1)  +  2^2d a1 w0
//
// P1: 16-bit lanes, d = 8: the last term falls off the top, the upper byte is the dot product. Two bytes of A side by side already are its
//     lane, so only the weights are swapped.
//     KernelAtBits: L (2 m) <= 255, so L = floor(255 / (2 m)), m = (2^a - 1)(2^w - 1); the lower byte then holds L m without a carry.
// P2: 32-bit lanes, d = 16 - max(a, w): the dot product is the middle d bits.
//     KernelAtBits: L (2 m) <= 2^d - 1, so L = floor((2^d - 1) / (2 m)).
//
// L is rounded down to 8, 4, 2 or 1, as published, so that the loop between two extractions unrolls. P1's extracted sums are u16: a K-block
// of 512 adds at most 512 * 127 = 65024. P2's are u32, modulo 2^32.
//
// An instruction set has defined, besides bitpacked_<isa>.h:
//   swap_pairs(codes)             bytes of each pair swapped
//   lanes<d, swapped>(codes, i)   of four codes in 32 bits, i and i + 1 as low + 2^d high, the other way round if swapped
//   store_in_turn(to, x, y)       32-bit lanes of x and y in turn, 64 bytes
//   P1, P2<d>                     a vector of lanes takes four bytes of A, kStepK of K; multiply, multiply_add, add; extract(local): the
//                                 dot products; columns(sums): 8 int32; kUnrolled: steps that the loop takes at a time, or `length` if
//                                 that is more
//
// Panel: | step 0: unit 0 .. 3 | step 1: ...  of 32 bytes each.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

constexpr int kRows = 3;
constexpr int kMaxKc = 512;
static_assert(kMaxKc * 127 <= 65535, "P1's u16 sums");

constexpr int rounded(int length) { return length >= 8 ? 8 : length >= 4 ? 4 : length >= 2 ? 2 : length; }
constexpr int spacing2(int a_bits, int b_bits) { return 16 - (a_bits > b_bits ? a_bits : b_bits); }
constexpr int length1(int a_bits, int b_bits) { return rounded(accumulation_length(255, 2, max_product(a_bits, 0, b_bits, 0))); }
constexpr int length2(int a_bits, int b_bits) {
  return rounded(accumulation_length((1 << spacing2(a_bits, b_bits)) - 1, 2, max_product(a_bits, 0, b_bits, 0)));
}
static_assert(length1(1, 1) == 8 && length1(2, 2) == 8 && length1(3, 3) == 2 && length1(4, 4) == 0, "MLSys 2022, figure 5");
static_assert(length2(4, 4) == 8 && length2(5, 5) == 1 && length2(7, 1) == 2 && length2(6, 6) == 0, "MLSys 2022, figure 5");

// P1 lanes: bytes of a pair of k swapped.
template <int bits>
void expand1(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) store(panel + ((kb * 8 + j) * s.units + u) * kVector, swap_pairs(v[j]));
    }
  }
}

// P2 lanes, swapped for the weights.
template <int bits, int d>
void expand2(const BitpackedSlice& s, uint8_t* panel) {
  for (int64_t kb = 0; kb < s.k_blocks; ++kb) {
    for (int u = 0; u < s.units; ++u) {
      Vec v[8];
      decode<bits>(bitpacked_unit(s, kb, u), v);
      ULP_UNROLL for (int j = 0; j < 8; ++j) {
        uint8_t* to = panel + ((kb * 16 + 2 * j) * s.units + u) * kVector;
        store(to, lanes<d, true>(v[j], 0));
        store(to + s.units * kVector, lanes<d, true>(v[j], 2));
      }
    }
  }
}

template <int d>
void pack2(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) {
      const Vec x = load(codes + k);
      store_in_turn(out + 2 * k, lanes<d, false>(x, 0), lanes<d, false>(x, 2));
    }
  }
}

// Adds the dot products of `length` steps to the sums.
template <class P, int length, int rows, int units>
ULP_INLINE void add_steps(const uint8_t*& a, int64_t a_stride, const uint8_t*& b, int64_t b_stride, Vec (&sum)[rows][units]) {
  Vec local[rows][units];
  ULP_UNROLL for (int i = 0; i < length; ++i) {
    ULP_UNROLL for (int r = 0; r < rows; ++r) {
      const auto x = broadcast4(a + r * a_stride + 4 * i);
      ULP_UNROLL for (int u = 0; u < units; ++u) {
        const Vec y = load(b + u * kVector);
        local[r][u] = i == 0 ? P::multiply(x, y) : P::multiply_add(local[r][u], x, y);
      }
    }
    b += b_stride;
  }
  a += 4 * length;
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) sum[r][u] = P::add(sum[r][u], P::extract(local[r][u]));
  }
}

// Two units at a time: 6 local accumulators and 6 extracted sums.
template <class P, int length, int rows, int units>
void tile(const Tile& args, int first_unit) {
  const Tile t = own_copy(args);
  const uint8_t* a = t.a;
  const uint8_t* b = t.b + first_unit * kVector;
  const int64_t b_stride = int64_t{t.units} * kVector;
  Vec sum[rows][units];
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int u = 0; u < units; ++u) sum[r][u] = zero(); }
  int64_t left = ceil_div(t.k, P::kStepK);
  constexpr int kTimes = length < P::kUnrolled ? P::kUnrolled / length : 1;
  for (; left >= kTimes * length; left -= kTimes * length) {
    ULP_UNROLL for (int i = 0; i < kTimes; ++i) add_steps<P, length>(a, t.a_stride, b, b_stride, sum);
  }
  for (; kTimes > 1 && left >= length; left -= length) add_steps<P, length>(a, t.a_stride, b, b_stride, sum);
  for (; left > 0; --left) add_steps<P, 1>(a, t.a_stride, b, b_stride, sum);
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    ULP_UNROLL for (int u = 0; u < units; ++u) store_result(t, r, first_unit + u, row_term(t, r), P::columns(sum[r][u]));
  }
}

template <class P, int length, int rows>
void tile_of_rows(const Tile& t) {
  int u = 0;
  for (; u + 2 <= t.units; u += 2) tile<P, length, rows, 2>(t, u);
  if (u < t.units) tile<P, length, rows, 1>(t, u);
}

template <class P, int length>
void run(const Tile& t) {
  switch (t.rows) {
    case 1:
      return tile_of_rows<P, length, 1>(t);
    case 2:
      return tile_of_rows<P, length, 2>(t);
    default:
      return tile_of_rows<P, length, kRows>(t);
  }
}

// Only what can be asked for is compiled: `lengths` is the sum of the lengths that occur, each a power of two.
template <class P, int lengths>
void (*run_of_length(int length))(const Tile&) {
  if constexpr ((lengths & 8) != 0) {
    if (length == 8) return run<P, 8>;
  }
  if constexpr ((lengths & 4) != 0) {
    if (length == 4) return run<P, 4>;
  }
  if constexpr ((lengths & 2) != 0) {
    if (length == 2) return run<P, 2>;
  }
  if constexpr ((lengths & 1) != 0) {
    if (length == 1) return run<P, 1>;
  }
  return nullptr;
}

constexpr int lengths1() {
  int lengths = 0;
  for (int a = 1; a <= 8; ++a) {
    for (int b = 1; b <= 8; ++b) lengths |= length1(a, b);
  }
  return lengths;
}
// P2's where the wider operand has `widest` bits.
constexpr int lengths2(int widest) {
  int lengths = 0;
  for (int other = 1; other <= widest; ++other) lengths |= length2(widest, other);
  return lengths;
}

constexpr bool supports1(int a_bits, int b_bits) { return length1(a_bits, b_bits) > 0; }

inline KernelAtBits bind1(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = length1(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.panel_bytes = kUnitCodes;
  b.expand = for_bits(b_bits, [](auto bits) { return &expand1<decltype(bits)::value>; });
  b.run = run_of_length<P1, lengths1()>(b.spill_every);
  return b;
}

constexpr bool supports2(int a_bits, int b_bits) { return a_bits < 8 && b_bits < 8 && length2(a_bits, b_bits) > 0; }

inline KernelAtBits bind2(int a_bits, int b_bits) {
  KernelAtBits b;
  b.spill_every = length2(a_bits, b_bits);
  b.max_kc = kMaxKc;
  b.a_bytes = 2 * kUnitK;
  b.panel_bytes = 2 * kUnitCodes;
  for_bits(a_bits > b_bits ? a_bits : b_bits, [&](auto widest) {
    constexpr int kWidest = decltype(widest)::value;
    if constexpr (kWidest < 8) {
      constexpr int d = spacing2(kWidest, kWidest);
      b.pack_a = pack2<d>;
      b.run = run_of_length<P2<d>, lengths2(kWidest)>(b.spill_every);
      for_bits(b_bits, [&](auto bits) {
        constexpr int kBits = decltype(bits)::value;
        if constexpr (kBits <= kWidest) b.expand = &expand2<kBits, d>;
        return 0;
      });
    }
    return 0;
  });
  return b;
}

}  // namespace
}  // namespace ulp
