// The functions of rows.h of one Vector16, which the including file defines; on a GPU it is one of the lanes. Each polynomial is a minimax
// fit of the relative error, its coefficients rounded to float32; tests/test_plan_rows.py holds the results against float64.
#pragma once

#include "../gemm/kernel_util.h"

namespace ulp {
namespace {

// Coefficients from the highest power down.
template <int n>
ULP_INLINE Vector16 polynomial(const float (&coefficients)[n], Vector16 x) {
  Vector16 y = Vector16::all(coefficients[0]);
  ULP_UNROLL for (int i = 1; i < n; ++i) y = y.fma(x, Vector16::all(coefficients[i]));
  return y;
}

// exp(x) for x <= 88; 0 below -87.3, where float32 has no normal numbers left. x = n ln 2 + r, |r| <= ln 2 / 2.
ULP_INLINE Vector16 exp16(Vector16 x) {
  constexpr float kLeast = -87.33654f;
  static constexpr float kPolynomial[] = {
      0.0013836771249771118f, 0.008374898694455624f, 0.041668232530355453f, 0.16666419804096222f, 0.49999991059303284f, 1.0f, 1.0f};
  const Vector16 bounded = x.max(Vector16::all(kLeast)).min(Vector16::all(88.0f));
  const Vector16 n = (bounded * Vector16::all(1.44269504f)).rint();
  const Vector16 high = n.fma(Vector16::all(-0.693359375f), bounded);
  const Vector16 r = n.fma(Vector16::all(2.12194440e-4f), high);
  const Vector16 y = polynomial(kPolynomial, r).times_power_of_2(n);
  return x.below(Vector16::all(kLeast), Vector16::all(0.0f), y);
}

// A function before its division, so that products of two functions divide once.
struct Ratio {
  Vector16 top, bottom;
  ULP_INLINE Vector16 value() const { return top / bottom; }
  ULP_INLINE Vector16 times(Ratio o) const { return (top * o.top) / (bottom * o.bottom); }
};

// 1 / (1 + exp(-x)), from exp(-|x|), which neither overflows nor cancels.
ULP_INLINE Ratio sigmoid_ratio(Vector16 x) {
  const Vector16 zero = Vector16::all(0.0f), one = Vector16::all(1.0f);
  const Vector16 e = exp16(zero - x.magnitude());
  return {x.below(zero, e, one), one + e};
}

ULP_INLINE Vector16 sigmoid16(Vector16 x) { return sigmoid_ratio(x).value(); }

// f(x) = x * share(x) where that is 0 for the lowest x: -infinity times 0 would be a NaN.
ULP_INLINE Vector16 vanishing(Vector16 x, Vector16 product) { return x.below(Vector16::all(-1e30f), Vector16::all(0.0f), product); }

// x * P(X <= x), X normal. The lower tail is P(X <= -|x|) = exp(-x^2 / 2) g(t), t = 1 / (1 + 0.35 |x|), g being a polynomial; x^2 is taken
// with its rounding error, or exp would multiply it.
ULP_INLINE Vector16 gelu16(Vector16 x) {
  static constexpr float kTail[] = {0.012298268266022205f, -0.09706627577543259f, 0.307275652885437f,    -0.48017600178718567f,
                                    0.3539199233055115f,   -0.13422374427318573f, 0.14761316776275635f,  0.10939399898052216f,
                                    0.1414797008037567f,   0.13947996497154236f,  5.300118118611863e-06f};
  const Vector16 zero = Vector16::all(0.0f), one = Vector16::all(1.0f), half = Vector16::all(0.5f);
  const Vector16 a = x.magnitude().min(Vector16::all(14.0f));  // beyond it the tail is 0
  const Vector16 square = a * a;
  const Vector16 rest = a.fma(a, zero - square);
  const Vector16 e = exp16(zero - half * square) * (one - half * rest);
  const Vector16 t = one / a.fma(Vector16::all(0.35f), one);
  const Vector16 tail = e * polynomial(kTail, t);
  return vanishing(x, x * x.below(zero, tail, one - tail));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
ULP_INLINE Vector16 gelu_tanh16(Vector16 x) {
  const Vector16 inner = (x * x).fma(Vector16::all(0.0713548162726f), Vector16::all(1.595769121606f));
  return vanishing(x, x * sigmoid16(x * inner));
}

ULP_INLINE Vector16 silu16(Vector16 x) { return vanishing(x, x * sigmoid16(x)); }

// By (1 - e) / (1 + e), e = exp(-2 |x|); near 0, where that cancels, x + x^3 p(x^2).
ULP_INLINE Ratio tanh_ratio(Vector16 x) {
  static constexpr float kNear[] = {0.0022955674212425947f, -0.008346976712346077f, 0.02177010290324688f,
                                    -0.05395946279168129f,  0.13333304226398468f,   -0.3333333432674408f};
  const Vector16 zero = Vector16::all(0.0f), one = Vector16::all(1.0f);
  const Vector16 a = x.magnitude();
  const Vector16 e = exp16(zero - (a + a));
  const Vector16 far = one - e;
  const Vector16 square = x * x;
  const Vector16 near = (x * square).fma(polynomial(kNear, square), x);
  const Vector16 limit = Vector16::all(0.625f);
  return {a.below(limit, near, x.below(zero, zero - far, far)), a.below(limit, one, one + e)};
}

ULP_INLINE Vector16 tanh16(Vector16 x) { return tanh_ratio(x).value(); }

// One step of an LSTM from the sums of its gates (rows.h: GateWork).
struct LstmState {
  Vector16 cell, hidden;
};

ULP_INLINE LstmState lstm_step(Vector16 i, Vector16 f, Vector16 g, Vector16 o, Vector16 cell) {
  const Vector16 c = sigmoid16(f).fma(cell, sigmoid_ratio(i).times(tanh_ratio(g)));
  return {c, sigmoid_ratio(o).times(tanh_ratio(c))};
}

// A GRU's h: between n, the candidate, and what it was.
ULP_INLINE Vector16 between(Vector16 update, Vector16 candidate, Vector16 before) { return update.fma(before - candidate, candidate); }

}  // namespace
}  // namespace ulp
