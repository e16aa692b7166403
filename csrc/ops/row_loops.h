// RowOps by the Vector16 that the including file defines: one template for all ISAs, so that all give the same bits.
#pragma once

#include <cstring>

#include "gate_loops.h"
#include "row_functions.h"
#include "rows.h"

namespace ulp {
namespace {

// The sum of the operands at n channels of a row and group; zeros behind the last channel, which add nothing to sums.
ULP_INLINE Vector16 operands_at(const RowWork& w, int64_t row, int64_t group, int64_t c, int64_t n) {
  Vector16 v = Vector16::all(0.0f);
  for (int i = 0; i < w.operand_count; ++i) {
    const Operand& o = w.operands[i];
    const int64_t at = row * o.pixel + group * w.group_step[i] + c;
    Vector16 x;
    if (o.codes) {
      x = n >= kLanes ? Vector16::load_codes(o.codes + at, o.zero) : Vector16::load_first_codes(o.codes + at, n, o.zero).first(n);
    } else {
      x = load_some(o.floats + at, n);
    }
    x = x * Vector16::all(o.scale);
    v = i == 0 ? x : v + x;
  }
  return v;
}

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

// f(vector) of every element.
template <class F>
ULP_INLINE bool each_element(const RowWork& w, F f) {
  Vector16 nans = Vector16::all(0.0f);
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      for (int64_t c = 0; c < w.channels; c += kLanes) {
        const int64_t n = w.channels - c;
        put(w, row, g * w.channels + c, n, f(operands_at(w, row, g, c, n)), nans);
      }
    }
  }
  return nans.sum() == 0;
}

template <bool centered>
bool normalized_rows(const RowWork& w) {
  Vector16 nans = Vector16::all(0.0f);
  const int64_t channels = w.channels;
  const float count = static_cast<float>(channels);
  float* x = w.buffer;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      Vector16 sum = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const Vector16 v = operands_at(w, row, g, c, channels - c);
        v.store(x + c);
        sum = sum + v;
      }
      const Vector16 mean = Vector16::all(centered ? sum.sum() / count : 0.0f);
      Vector16 squares = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        Vector16 d = Vector16::load(x + c);
        if (centered) {
          d = d - mean;
          if (channels - c < kLanes) d = d.first(channels - c);
          d.store(x + c);
        }
        squares = d.fma(d, squares);
      }
      const float deviation = ::sqrtf(squares.sum() / count + w.epsilon);
      const Vector16 factor = Vector16::all(1.0f / deviation);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        Vector16 y = Vector16::load(x + c) * factor;
        if (w.gamma && w.beta) {
          y = y.fma(load_some(w.gamma + c, n), load_some(w.beta + c, n));
        } else if (w.gamma) {
          y = y * load_some(w.gamma + c, n);
        } else if (w.beta) {
          y = y + load_some(w.beta + c, n);
        }
        put(w, row, g * channels + c, n, y, nans);
      }
    }
  }
  return nans.sum() == 0;
}

bool softmax_rows(const RowWork& w) {
  Vector16 nans = Vector16::all(0.0f);
  const int64_t channels = w.channels;
  const float least = -3.4028235e38f;
  float* x = w.buffer;
  for (int64_t row = 0; row < w.rows; ++row) {
    for (int64_t g = 0; g < w.groups; ++g) {
      Vector16 top = Vector16::all(least);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        const Vector16 v = operands_at(w, row, g, c, n);
        v.store(x + c);
        if (n >= kLanes) {
          top = v.max(top);
        } else {
          for (int64_t i = 0; i < n; ++i) top = Vector16::all(x[c + i]).max(top);
        }
      }
      const Vector16 largest = Vector16::all(top.largest());
      Vector16 sum = Vector16::all(0.0f);
      for (int64_t c = 0; c < channels; c += kLanes) {
        Vector16 e = exp16(Vector16::load(x + c) - largest);
        if (channels - c < kLanes) e = e.first(channels - c);
        e.store(x + c);
        sum = sum + e;
      }
      const Vector16 factor = Vector16::all(1.0f / sum.sum());
      for (int64_t c = 0; c < channels; c += kLanes) put(w, row, g * channels + c, channels - c, Vector16::load(x + c) * factor, nans);
    }
  }
  return nans.sum() == 0;
}

// Calls `with` with a function of single elements. Precondition: it is one.
template <class With>
bool with_function(RowFunction function, const With& with) {
  switch (function) {
    case RowFunction::gelu:
      return with([](Vector16 v) { return gelu16(v); });
    case RowFunction::gelu_tanh:
      return with([](Vector16 v) { return gelu_tanh16(v); });
    case RowFunction::silu:
      return with([](Vector16 v) { return silu16(v); });
    case RowFunction::sigmoid:
      return with([](Vector16 v) { return sigmoid16(v); });
    case RowFunction::tanh:
      return with([](Vector16 v) { return tanh16(v); });
    default:
      return with([](Vector16 v) { return v; });
  }
}

bool rows(const RowWork& work) {
  const RowWork w = work;  // a copy that no store can alias
  switch (w.function) {
    case RowFunction::layer_norm:
      return normalized_rows<true>(w);
    case RowFunction::rms_norm:
      return normalized_rows<false>(w);
    case RowFunction::softmax:
      return softmax_rows(w);
    default:
      return with_function(w.function, [&](auto f) { return each_element(w, f); });
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

template <class F>
ULP_INLINE bool each_sum(const RowSums& s, const RowWork& targets, F f) {
  Vector16 nans = Vector16::all(0.0f);
  int64_t c = 0;
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

template <int tile_rows>
ULP_INLINE void product_tile(const FloatProduct& p, int64_t m) {
  Vector16 sums[tile_rows];
  ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r] = Vector16::all(0.0f);
  const float* a = p.a + m * p.a_row;
  const float* b = p.b;
  const int64_t row = p.a_row, step = p.a_step, depth = p.depth;
  for (int64_t k = 0; k < depth; ++k, a += step, b += kProductColumns) {
    const Vector16 w = Vector16::load(b);
    ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r] = Vector16::all(a[r * row]).fma(w, sums[r]);
  }
  ULP_UNROLL for (int r = 0; r < tile_rows; ++r) sums[r].store(p.out + (m + r) * p.out_row);
}

void product(const FloatProduct& problem) {
  const FloatProduct p = problem;
  int64_t m = 0;
  for (; m + Vector16::tile_rows <= p.rows; m += Vector16::tile_rows) product_tile<Vector16::tile_rows>(p, m);
  for (; m + 2 <= p.rows; m += 2) product_tile<2>(p, m);
  if (m < p.rows) product_tile<1>(p, m);
}

constexpr RowOps kRowOps{rows, quantize, product, sums, range, lstm, gru, gru_reset, gru_update};

}  // namespace
}  // namespace ulp
