// What products quantize in the call, before them and behind them, by the Vector16 that the including file defines (rows.h: RowSums).
#pragma once

#include <cstring>

#include "gate_loops.h"
#include "row_functions.h"
#include "rows.h"
#include "vector32.h"

namespace ulp {
namespace {

ULP_INLINE Vector16 steps_to_codes(Vector16 steps, const Target& t) {
  const Vector16 raised = steps.max(Vector16::all(static_cast<float>(-t.zero)));
  return raised.min(Vector16::all(static_cast<float>(t.max_code - t.zero))).rint();
}

// Codes of x / divisor + shift, the division rounded as one, by multiplications, which take a tenth of its time. With a reciprocal that is
// rounded to the nearest, the first correction gives one of the two floats around the quotient, the second the nearest (Markstein, IBM
// Journal of Research and Development 34, 1990, theorem 7). Remainders are exact where they do not leave float32's normal numbers: divisors
// far from 1 divide, and a quotient so small that its remainder would is next to 0 either way. What lies a quarter of a step beyond the
// first and the last code has that code, so that x is bounded there, once for all that follows.
class Divisor {
 public:
  ULP_INLINE Divisor(float by, float shift, const Target& t)
      : by_(Vector16::all(by)),
        negative_(Vector16::all(-by)),
        reciprocal_(Vector16::all(1.0f / by)),
        shift_(Vector16::all(shift)),
        low_(Vector16::all(by * (static_cast<float>(-t.zero) - shift - 0.25f))),
        high_(Vector16::all(by * (static_cast<float>(t.max_code - t.zero) - shift + 0.25f))),
        far_(!(by > 1e-18f && by < 1e18f)) {}

  // To be rounded.
  ULP_INLINE Vector16 steps(Vector16 x, const Target& t) const {
    if (far_) return steps_to_codes(x / by_ + shift_, t);
    const Vector16 bounded = x.max(low_).min(high_);
    const Vector16 first = bounded * reciprocal_;
    const Vector16 second = first.fma(negative_, bounded).fma(reciprocal_, first);
    return second.fma(negative_, bounded).fma(reciprocal_, second) + shift_;
  }

 private:
  Vector16 by_, negative_, reciprocal_, shift_, low_, high_;
  bool far_;
};

// nans becomes other than 0 where a code is made of a NaN: clamped from below first, a NaN gives the smallest code, from above first the
// largest.
ULP_INLINE void put(const RowWork& w, int64_t row, int64_t c, int64_t n, Vector16 v, Vector16& nans) {
  for (int i = 0; i < w.target_count; ++i) {
    const Target& t = w.targets[i];
    const int64_t at = row * t.pixel + c;
    if (t.codes) {
      const Vector16 steps = w.divisors ? v / Vector16::all(w.divisors[i]) : v * Vector16::all(t.inverse);
      const Vector16 codes = steps_to_codes(steps, t);
      codes.store_codes(t.codes + at, n, t.zero);
      const Vector16 low = Vector16::all(static_cast<float>(-t.zero)), high = Vector16::all(static_cast<float>(t.max_code - t.zero));
      const Vector16 other = steps.min(high).max(low).rint() - codes;
      nans = nans + (n >= kLanes ? other : other.first(n));
    } else if (n >= kLanes) {
      v.store(t.floats + at);
    } else {
      v.store_first(t.floats + at, n);
    }
  }
}

// Calls `with` with a function of single elements. Precondition: it is one.
template <class With>
bool with_function(RowFunction function, const With& with) {
  switch (function) {
    case RowFunction::gelu:
      return with([](auto v) { return gelu16(v); });
    case RowFunction::gelu_tanh:
      return with([](auto v) { return gelu_tanh16(v); });
    case RowFunction::silu:
      return with([](auto v) { return silu16(v); });
    case RowFunction::sigmoid:
      return with([](auto v) { return sigmoid16(v); });
    case RowFunction::tanh:
      return with([](auto v) { return tanh16(v); });
    default:
      return with([](auto v) { return v; });
  }
}

// n channels from c on, of all rows. columns: 16 of them.
template <class F>
ULP_INLINE void sum_columns(const RowSums& s, const RowWork& targets, int64_t c, int64_t n, const int32_t* columns, F f, Vector16& nans) {
  const Vector16 low = Vector16::all(s.low), high = Vector16::all(s.high);
  const Vector16 scale = load_some(s.scale + c, n), bias = load_some(s.bias + c, n);
  const int32_t* sums = s.sums + c;
  for (int64_t m = 0; m < s.rows; ++m, sums += s.ld) {
    int32_t some[kLanes] = {};
    const int32_t* from = sums;
    if (n < kLanes) {
      std::memcpy(some, sums, static_cast<size_t>(n) * sizeof(int32_t));
      from = some;
    }
    const Vector16 factor = Vector16::all(s.row_scale[m]) * scale;
    Vector16 v = Vector16::load_sums(from, columns, s.zero[m]) * factor + bias;
    const float* x = s.outliers + m * s.outlier_count;
    for (int64_t k = 0; k < s.outlier_count; ++k)
      v = Vector16::all(x[k]).fma(load_some(s.outlier_weights + k * s.outlier_stride + c, n), v);
    put(targets, m, c, n, f(v).max(low).min(high), nans);
  }
}

constexpr int kSumVectors = Vector16::tile_rows >= 12 ? 4 : 2;

// kSumVectors vectors of channels from c on, of all rows, to floats: what the rows share stays in registers.
template <class F>
ULP_INLINE void sums_to_floats(const RowSums& s, int64_t c, F f) {
  constexpr int kVectors = kSumVectors;
  const Vector16 low = Vector16::all(s.low), high = Vector16::all(s.high);
  Vector16 scale[kVectors], bias[kVectors];
  ULP_UNROLL for (int v = 0; v < kVectors; ++v) {
    scale[v] = Vector16::load(s.scale + c + v * kLanes);
    bias[v] = Vector16::load(s.bias + c + v * kLanes);
  }
  const int32_t* sums = s.sums + c;
  const int32_t* columns = s.columns + c;
  float* to = s.targets[0].floats + c;
  const int64_t rows = s.rows, ld = s.ld, step = s.targets[0].pixel;
  for (int64_t m = 0; m < rows; ++m, sums += ld, to += step) {
    const Vector16 of_row = Vector16::all(s.row_scale[m]);
    const int32_t zero = s.zero[m];
    Vector16 x[kVectors];
    ULP_UNROLL for (int v = 0; v < kVectors; ++v) x[v] =
        Vector16::load_sums(sums + v * kLanes, columns + v * kLanes, zero) * (of_row * scale[v]) + bias[v];
    ULP_UNROLL for (int v = 0; v < kVectors; v += 2) {
      const Vector32 y = f(Vector32{x[v], x[v + 1]}).max({low, low}).min({high, high});
      y.low.store(to + v * kLanes);
      y.high.store(to + (v + 1) * kLanes);
    }
  }
}

template <class F>
ULP_INLINE bool each_sum(const RowSums& s, const RowWork& targets, F f) {
  Vector16 nans = Vector16::all(0.0f);
  int64_t c = 0;
  if (s.target_count == 1 && s.targets[0].floats && s.outlier_count == 0) {
    for (; c + kSumVectors * kLanes <= s.channels; c += kSumVectors * kLanes) sums_to_floats(s, c, f);
  }
  for (; c + kLanes <= s.channels; c += kLanes) sum_columns(s, targets, c, kLanes, s.columns + c, f, nans);
  if (c < s.channels) {
    int32_t columns[kLanes] = {};
    std::memcpy(columns, s.columns + c, static_cast<size_t>(s.channels - c) * sizeof(int32_t));
    sum_columns(s, targets, c, s.channels - c, columns, f, nans);
  }
  return nans.sum() == 0;
}

bool sums(const RowSums& work) {
  const RowSums s = work;
  RowWork targets{};
  targets.targets = s.targets;
  targets.target_count = s.target_count;
  return with_function(s.function, [&](auto f) { return each_sum(s, targets, f); });
}

template <class Steps>
ULP_INLINE bool quantize_by(const float* x, int64_t count, const Target& t, const Steps& steps) {
  const Vector16 zero = Vector16::all(0.0f);
  Vector16 products = zero;  // x * 0 is a NaN where x is not finite
  int64_t c = 0;
  for (; c + 4 * kLanes <= count; c += 4 * kLanes) {
    Vector16 v[4];
    ULP_UNROLL for (int i = 0; i < 4; ++i) {
      v[i] = Vector16::load(x + c + i * kLanes);
      products = v[i].fma(zero, products);
      v[i] = steps(v[i]);
    }
    Vector16::store_four_rounded(t.codes + c, v, t.zero);
  }
  for (; c + kLanes <= count; c += kLanes) {
    const Vector16 v = Vector16::load(x + c);
    products = v.fma(zero, products);
    steps(v).store_rounded(t.codes + c, kLanes, t.zero);
  }
  if (c < count) {
    const Vector16 v = Vector16::load_first(x + c, count - c);
    products = v.fma(zero, products);
    steps(v).store_rounded(t.codes + c, count - c, t.zero);
  }
  return products.sum() == 0;
}

bool quantize(const float* x, int64_t count, const Target& target, float divisor, float shift) {
  const Target t = target;
  if (divisor != 0) {
    const Divisor by(divisor, shift, t);
    return quantize_by(x, count, t, [&](Vector16 v) { return by.steps(v, t); });
  }
  const Vector16 inverse = Vector16::all(t.inverse), added = Vector16::all(shift);
  return quantize_by(x, count, t, [&](Vector16 v) { return steps_to_codes(v * inverse + added, t); });
}

void range(const float* x, int64_t count, float* low, float* high) {
  const Vector16 zero = Vector16::all(0.0f);
  Vector16 largest[2] = {zero, zero}, least[2] = {zero, zero};
  int64_t c = 0;
  for (; c + 2 * kLanes <= count; c += 2 * kLanes) {
    ULP_UNROLL for (int i = 0; i < 2; ++i) {
      const Vector16 v = Vector16::load(x + c + i * kLanes);
      largest[i] = v.max(largest[i]);
      least[i] = v.min(least[i]);
    }
  }
  for (; c < count; c += kLanes) {
    const Vector16 v = load_some(x + c, count - c);
    largest[0] = v.max(largest[0]);
    least[0] = v.min(least[0]);
  }
  *low = -(zero - least[0].min(least[1])).largest();
  *high = largest[0].max(largest[1]).largest();
}

}  // namespace
}  // namespace ulp
