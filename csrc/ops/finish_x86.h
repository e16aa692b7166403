// Ops::finish on x86: columns are taken four vectors at a time, their scales and biases in registers, over all pixels. What it is made of
// comes from ops_<isa>.h, which is included before.
//
// Codes grow with the value, so clamping a value is clamping its code:
//
//     code(min(max(v, low), high)) = min(max(code(v), code(low)), code(high))
//
// and the right side is two operations on bytes, four vectors at once. It needs codes that are right however large a value is, up to where
// the sums end: Target::fits_int32 says that rounding to int32 cannot overflow, which is nearly always so.
#pragma once

#include "portable_codes.h"

namespace ulp {
namespace {

enum class Kind { none, codes, floats };

// What is known of a call before it starts. `bytes`: codes are clamped, not the values they come from.
template <bool residual_, bool bytes_, Kind first_, Kind second_, bool one_step_ = false>
struct Case {
  static constexpr bool one_step = one_step_;  // Finish::step
  static constexpr bool residual = residual_;
  static constexpr bool bytes = bytes_;
  static constexpr bool clamps_values = !bytes_ || first_ == Kind::floats || second_ == Kind::floats;
  static constexpr Kind first = first_;
  static constexpr Kind second = second_;
};

// A target, and the codes of low and high.
struct Goal {
  const Target* target;
  int lowest;
  int highest;
};

// Where a target's columns go.
template <Kind kind, bool bytes, int vectors, bool part, bool scaled = false>
struct Writer {
  Coder coder;
  Vec lowest;
  Vec highest;
  Vec offset;
  bool has_lowest;
  uint8_t* codes;
  float* floats;
  int64_t pixel;

  Writer(const Goal& goal, int64_t column)
      : coder(*goal.target),
        lowest(same_bytes(goal.lowest)),
        highest(same_bytes(goal.highest)),
        offset(same_bytes(goal.target->offset)),
        has_lowest(goal.lowest > 0),
        codes(kind == Kind::codes ? goal.target->codes + column : nullptr),
        floats(kind == Kind::floats ? goal.target->floats + column : nullptr),
        pixel(goal.target->pixel) {}

  ULP_INLINE void put(int64_t p, const FloatVec* v, const Lanes& lanes) const {
    if constexpr (kind == Kind::codes) {
      Vec x = coder.codes<!bytes, vectors, scaled>(v);
      if constexpr (bytes) x = smaller_bytes(has_lowest ? larger_bytes(x, lowest) : x, highest);
      store_codes<vectors, part>(codes + p * pixel, plus_bytes(x, offset), lanes);
    } else {
      ULP_UNROLL for (int i = 0; i < vectors; ++i) store_floats<part>(floats + p * pixel + kFloats * i, v[i], lanes);
    }
  }
};

template <bool bytes, int vectors, bool part, bool scaled>
struct Writer<Kind::none, bytes, vectors, part, scaled> {
  Writer(const Goal&, int64_t) {}
  ULP_INLINE void put(int64_t, const FloatVec*, const Lanes&) const {}
};

// kFloats * vectors columns from `column` on, or, for a part, the last n < kFloats.
template <class C, int vectors, bool part>
void columns(const Finish& f, const Goal& g0, const Goal& g1, int64_t column, int64_t n) {
  const Writer<C::first, C::bytes, vectors, part, C::one_step> first(g0, column);
  const Writer<C::second, C::bytes, vectors, part> second(g1, column);
  const Lanes lanes(part ? n : kFloats);
  const FloatVec nothing = same(-0.0f);  // leaves what it is added to as it is, zeros included
  FloatVec scale[vectors];
  FloatVec bias[vectors];
  const float* scales = C::one_step ? f.step : f.scale;
  const float* biases = C::one_step ? f.step_offset : f.bias;
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    scale[i] = f.one_scale ? same(scales[0]) : load_floats<part>(scales + column + kFloats * i, lanes);
    bias[i] = biases ? load_floats<part>(biases + column + kFloats * i, lanes) : nothing;
  }
  const FloatVec low = same(f.low);
  const FloatVec high = same(f.high);
  const FloatVec residual_scale = same(f.residual_scale);
  const Vec residual_zero = same_ints(f.residual_zero);
  const bool has_residual_zero = f.residual_zero != 0;
  const uint8_t* residual = C::residual ? f.residual + column : nullptr;
  const int64_t residual_pixel = f.residual_pixel;
  const int32_t* acc = f.acc + column;
  const int64_t ld = f.ld;
  const int64_t pixels = f.pixels;

  for (int64_t p = 0; p < pixels; ++p, acc += ld) {
    FloatVec v[vectors];
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const FloatVec sum = to_floats(load_ints<part>(acc + kFloats * i, lanes));
      v[i] = C::one_step ? times_plus(sum, scale[i], bias[i]) : plus(times(sum, scale[i]), bias[i]);
      if constexpr (C::residual) {
        Vec other = load_codes<part>(residual + p * residual_pixel + kFloats * i, lanes);
        if (has_residual_zero) other = minus(other, residual_zero);
        v[i] = plus(v[i], times(to_floats(other), residual_scale));
      }
      if constexpr (C::clamps_values) v[i] = bounded(v[i], low, high);
    }
    first.put(p, v, lanes);
    second.put(p, v, lanes);
  }
}

template <class C>
void run(const Finish& f, const Goal& g0, const Goal& g1) {
  int64_t column = 0;
  for (; column + 4 * kFloats <= f.channels; column += 4 * kFloats) columns<C, 4, false>(f, g0, g1, column, 4 * kFloats);
  for (; column + 2 * kFloats <= f.channels; column += 2 * kFloats) columns<C, 2, false>(f, g0, g1, column, 2 * kFloats);
  for (; column + kFloats <= f.channels; column += kFloats) columns<C, 1, false>(f, g0, g1, column, kFloats);
  if (column < f.channels) columns<C, 1, true>(f, g0, g1, column, f.channels - column);
}

Goal make_goal(const Finish& f, const Target& t, bool bytes) {
  if (!bytes || !t.codes) return {&t, 0, 0};
  return {&t, code_of(f.low, t), code_of(f.high, t)};
}

template <bool residual, bool bytes>
void run_kinds(const Finish& f, const Target& t0, const Target* t1) {
  const Goal g0 = make_goal(f, t0, bytes);
  if (!t1) return run<Case<residual, bytes, Kind::codes, Kind::none>>(f, g0, g0);
  const Goal g1 = make_goal(f, *t1, bytes);
  if (!t0.codes) return run<Case<residual, bytes, Kind::codes, Kind::floats>>(f, g1, g0);
  t1->codes ? run<Case<residual, bytes, Kind::codes, Kind::codes>>(f, g0, g1)
            : run<Case<residual, bytes, Kind::codes, Kind::floats>>(f, g0, g1);
}

// One target, or two of which at least one is of codes.
template <bool residual>
void run_targets(const Finish& f, const Target& t0, const Target* t1) {
  if constexpr (!residual) {
    if (f.step && !t1) {
      Target t = t0;
      t.zero = f.step_zero;
      const Goal g{&t, code_of(f.low, t0), code_of(f.high, t0)};
      return run<Case<false, true, Kind::codes, Kind::none, true>>(f, g, g);
    }
  }
  if (!t1 && !t0.codes) return run<Case<residual, false, Kind::floats, Kind::none>>(f, {&t0, 0, 0}, {&t0, 0, 0});
  const bool bytes = (!t0.codes || t0.fits_int32) && (!t1 || !t1->codes || t1->fits_int32);
  bytes ? run_kinds<residual, true>(f, t0, t1) : run_kinds<residual, false>(f, t0, t1);
}

void run_targets(const Finish& f, const Target& t0, const Target* t1) {
  f.residual ? run_targets<true>(f, t0, t1) : run_targets<false>(f, t0, t1);
}

// All targets, two at a time; those with thresholds by a function of their own.
ULP_INLINE void finish_targets(const Finish& f, void (*finish_thresholds)(const Finish& f, const Target& target)) {
  const Target* waiting = nullptr;
  for (int i = 0; i < f.target_count; ++i) {
    const Target& t = f.targets[i];
    if (t.thresholds) {
      finish_thresholds(f, t);
    } else if (!waiting) {
      waiting = &t;
    } else if (waiting->codes || t.codes) {
      run_targets(f, *waiting, &t);
      waiting = nullptr;
    } else {
      run_targets(f, t, nullptr);
    }
  }
  if (waiting) run_targets(f, *waiting, nullptr);
}

}  // namespace
}  // namespace ulp
