// The functions of rows.h of a V: a Vector16, which the including file defines, two of them, or on a GPU one of the lanes. Each polynomial
// is a minimax fit of the relative error, its coefficients rounded to float32; tests/test_plan_rows.py holds the results against float64.
#pragma once

#include "../gemm/kernel_util.h"

namespace ulp {
namespace {

// Coefficients from the highest power down.
template <class V, int n>
ULP_INLINE V polynomial(const float (&coefficients)[n], V x) {
  V y = V::all(coefficients[0]);
  ULP_UNROLL for (int i = 1; i < n; ++i) y = y.fma(x, V::all(coefficients[i]));
  return y;
}

// exp(x) for x <= 0; 0 below -87.3, where float32 has no normal numbers left. x = n ln 2 + r, |r| <= ln 2 / 2.
template <class V>
ULP_INLINE V exp16(V x) {
  constexpr float kLeast = -87.33654f;
  static constexpr float kPolynomial[] = {
      0.0013836771249771118f, 0.008374898694455624f, 0.041668232530355453f, 0.16666419804096222f, 0.49999991059303284f, 1.0f, 1.0f};
  const V bounded = x.max(V::all(kLeast));
  const V n = (bounded * V::all(1.44269504f)).rint();
  const V high = n.fma(V::all(-0.693359375f), bounded);
  const V r = n.fma(V::all(2.12194440e-4f), high);
  const V y = polynomial(kPolynomial, r).times_power_of_2(n);
  return x.below(V::all(kLeast), V::all(0.0f), y);
}

// A function before its division, so that products of two functions divide once.
template <class V>
struct Ratio {
  V top, bottom;
  ULP_INLINE V value() const { return top / bottom; }
  ULP_INLINE V times(Ratio o) const { return (top * o.top) / (bottom * o.bottom); }
};

// 1 / (1 + exp(-x)), from exp(-|x|), which neither overflows nor cancels.
template <class V>
ULP_INLINE Ratio<V> sigmoid_ratio(V x) {
  const V zero = V::all(0.0f), one = V::all(1.0f);
  const V e = exp16(zero - x.magnitude());
  return {x.below(zero, e, one), one + e};
}

template <class V>
ULP_INLINE V sigmoid16(V x) {
  return sigmoid_ratio(x).value();
}

// f(x) = x * share(x) where that is 0 for the lowest x: -infinity times 0 would be a NaN.
template <class V>
ULP_INLINE V vanishing(V x, V product) {
  return x.below(V::all(-1e30f), V::all(0.0f), product);
}

// x * P(X <= x), X normal. The lower tail is P(X <= -|x|) = exp(-x^2 / 2) g(t), t = 1 / (1 + 0.35 |x|), g being a polynomial; x^2 is taken
// with its rounding error, or exp would multiply it.
template <class V>
ULP_INLINE V gelu16(V x) {
  static constexpr float kTail[] = {0.012298268266022205f, -0.09706627577543259f, 0.307275652885437f,    -0.48017600178718567f,
                                    0.3539199233055115f,   -0.13422374427318573f, 0.14761316776275635f,  0.10939399898052216f,
                                    0.1414797008037567f,   0.13947996497154236f,  5.300118118611863e-06f};
  const V zero = V::all(0.0f), one = V::all(1.0f), half = V::all(-0.5f);
  const V a = x.magnitude().min(V::all(14.0f));  // beyond it the tail is 0
  const V square = a * a;
  const V rest = a.fma(a, zero - square);
  const V e = exp16(half * square) * rest.fma(half, one);
  const V t = one / a.fma(V::all(0.35f), one);
  const V tail = e * polynomial(kTail, t);
  return vanishing(x, x * x.below(zero, tail, one - tail));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
template <class V>
ULP_INLINE V gelu_tanh16(V x) {
  const V inner = (x * x).fma(V::all(0.0713548162726f), V::all(1.595769121606f));
  return vanishing(x, x * sigmoid16(x * inner));
}

template <class V>
ULP_INLINE V silu16(V x) {
  return vanishing(x, x * sigmoid16(x));
}

// By (1 - e) / (1 + e), e = exp(-2 |x|); near 0, where that cancels, x + x^3 p(x^2).
template <class V>
ULP_INLINE Ratio<V> tanh_ratio(V x) {
  static constexpr float kNear[] = {0.0022955674212425947f, -0.008346976712346077f, 0.02177010290324688f,
                                    -0.05395946279168129f,  0.13333304226398468f,   -0.3333333432674408f};
  const V zero = V::all(0.0f), one = V::all(1.0f);
  const V a = x.magnitude();
  const V e = exp16(zero - (a + a));
  const V far = one - e;
  const V square = x * x;
  const V near = (x * square).fma(polynomial(kNear, square), x);
  const V limit = V::all(0.625f);
  return {a.below(limit, near, x.below(zero, zero - far, far)), a.below(limit, one, one + e)};
}

template <class V>
ULP_INLINE V tanh16(V x) {
  return tanh_ratio(x).value();
}

// One step of an LSTM from the sums of its gates (rows.h: GateWork).
template <class V>
struct LstmState {
  V cell, hidden;
};

template <class V>
ULP_INLINE LstmState<V> lstm_step(V i, V f, V g, V o, V cell) {
  const V c = sigmoid16(f).fma(cell, sigmoid_ratio(i).times(tanh_ratio(g)));
  return {c, sigmoid_ratio(o).times(tanh_ratio(c))};
}

// A GRU's h: between n, the candidate, and what it was.
template <class V>
ULP_INLINE V between(V update, V candidate, V before) {
  return update.fma(before - candidate, candidate);
}

}  // namespace
}  // namespace ulp
