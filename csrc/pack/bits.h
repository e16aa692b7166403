// Ranges, codes and overflow bounds of one b-bit operand.
//
// Kernels never see a signed operand. Every value v is carried as a *code* u in [0, 2^b), an affine image of it:
//
//     v = slope * u + offset        unsigned      slope 1, offset 0
//                                   two's compl.  slope 1, offset -2^(b-1)
//                                   bipolar       slope 2, offset -1          (b = 1, signed: v is -1 or +1)
//
// gemm/zero_points.h turns sums over codes into sums over values.
//
// The free functions are static: kernel files are built with extra ISA flags, and a shared inline copy could be the one that an old CPU
// gets.
#pragma once

#include <cstdint>

namespace ulp {

inline constexpr int kMinBits = 1;
inline constexpr int kMaxBits = 8;

struct Encoding {
  int bits;
  bool is_signed;

  constexpr bool bipolar() const { return is_signed && bits == 1; }
  constexpr int levels() const { return 1 << bits; }
  constexpr int slope() const { return bipolar() ? 2 : 1; }
  constexpr int offset() const { return bipolar() ? -1 : is_signed ? -(1 << (bits - 1)) : 0; }
  constexpr int min() const { return offset(); }
  constexpr int max() const { return offset() + slope() * (levels() - 1); }
  constexpr int value(int code) const { return offset() + slope() * code; }
  // Precondition: min() <= v <= max(), and v is odd if bipolar.
  constexpr int code(int v) const { return bipolar() ? (v + 1) >> 1 : v - offset(); }
};

static constexpr bool valid_bits(int bits) { return bits >= kMinBits && bits <= kMaxBits; }

static constexpr int max_abs(int a, int b) {
  const int x = a < 0 ? -a : a;
  const int y = b < 0 ? -b : b;
  return x > y ? x : y;
}

// Largest |(u_a - centre_a) * (u_b - centre_b)| over all codes: the m of every local-accumulation bound below.
static constexpr int max_product(int a_bits, int centre_a, int b_bits, int centre_b) {
  return max_abs(-centre_a, (1 << a_bits) - 1 - centre_a) * max_abs(-centre_b, (1 << b_bits) - 1 - centre_b);
}

// How many sums of `terms` products, each at most `m` in magnitude, fit in an accumulator that holds up to `limit`.
static constexpr int accumulation_length(int limit, int terms, int m) { return limit / (terms * m); }

// Two unsigned rows in a byte, x0 + (x1 << s): the largest s at which a byte holds both.
static constexpr int field_spacing(int a_bits) {
  int s = 0;
  while (((1 << a_bits) - 1) * ((1 << (s + 1)) + 1) <= 255) ++s;
  return s;
}

// Steps of `terms` products until the lower of two such fields could run into the upper one; 0 for weights that are no signed bytes.
static constexpr int field_steps(int a_bits, int b_bits, int terms) {
  return b_bits == 8 ? 0 : accumulation_length((1 << field_spacing(a_bits)) - 1, terms, max_product(a_bits, 0, b_bits, 0));
}

// Largest |v - zero| over the values v of an operand.
static constexpr int64_t magnitude(Encoding e, int64_t zero) {
  const int64_t below = zero - e.min();
  const int64_t above = e.max() - zero;
  return below > above ? below : above;
}

// The same over some zero points; without any (nullptr) the zero point is 0.
static constexpr int64_t magnitude(Encoding e, const int32_t* zeros, int64_t count) {
  if (!zeros) return magnitude(e, 0);
  int64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t m = magnitude(e, zeros[i]);
    largest = m > largest ? m : largest;
  }
  return largest;
}

// How far |start + sum over K of (a - a_zero)(b - b_zero)| reaches, which must stay inside int32.
struct SumBound {
  int64_t a;  // magnitude of each factor
  int64_t b;

  static constexpr int64_t kLimit = INT64_C(2147483647);
  constexpr int64_t max_k() const { return a * b == 0 ? INT64_MAX : kLimit / (a * b); }
  constexpr int64_t sum(int64_t k) const { return k * a * b; }
  // Largest |start| beside sums over k <= max_k().
  constexpr int64_t room(int64_t k) const { return kLimit - sum(k); }
};

}  // namespace ulp
