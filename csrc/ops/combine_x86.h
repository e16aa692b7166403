// Ops::combine on x86, four vectors of channels at a time. What it is made of comes from ops_<isa>.h, which is included before.
#pragma once

#include "ops.h"

namespace ulp {
namespace {

// The values of kFloats channels, or of the first lanes of them.
template <bool part>
ULP_INLINE FloatVec values_of(const Operand& o, int64_t at, const Lanes& lanes) {
  if (!o.codes) return load_floats<part>(o.floats + at, lanes);
  return times(to_floats(minus(load_codes<part>(o.codes + at, lanes), same_ints(o.zero))), same(o.scale));
}

// kFloats * vectors channels of a pixel from `c` on, or, for a part, the last n < kFloats.
template <int vectors, bool part>
ULP_INLINE void channels_of(const Combination& f, int64_t p, int64_t c, int64_t n) {
  const Lanes lanes(part ? n : kFloats);
  FloatVec v[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) v[i] = values_of<part>(f.operands[0], p * f.operands[0].pixel + c + kFloats * i, lanes);
  for (int k = 1; k < f.operand_count; ++k) {
    const Operand& o = f.operands[k];
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const FloatVec w = values_of<part>(o, p * o.pixel + c + kFloats * i, lanes);
      v[i] = f.multiply ? times(v[i], w) : plus(v[i], w);
    }
  }
  const FloatVec low = same(f.low);
  const FloatVec high = same(f.high);
  ULP_UNROLL for (int i = 0; i < vectors; ++i) v[i] = bounded(v[i], low, high);
  for (int j = 0; j < f.target_count; ++j) {
    const Target& t = f.targets[j];
    const int64_t at = p * t.pixel + c;
    if (!t.codes) {
      ULP_UNROLL for (int i = 0; i < vectors; ++i) store_floats<part>(t.floats + at + kFloats * i, v[i], lanes);
      continue;
    }
    Coder coder(t);
    FloatVec steps[vectors];
    if (f.divisors) coder.inverse = same(1.0f);
    ULP_UNROLL for (int i = 0; i < vectors; ++i) steps[i] = f.divisors ? quotient(v[i], same(f.divisors[j])) : v[i];
    store_codes<vectors, part>(t.codes + at, coder.codes<true, vectors>(steps), lanes);
  }
}

// The channels of a pixel from `c` on.
ULP_INLINE void channels_from(const Combination& f, int64_t p, int64_t c) {
  for (; c + 4 * kFloats <= f.channels; c += 4 * kFloats) channels_of<4, false>(f, p, c, kFloats);
  for (; c + kFloats <= f.channels; c += kFloats) channels_of<1, false>(f, p, c, kFloats);
  if (c < f.channels) channels_of<1, true>(f, p, c, f.channels - c);
}

// A sum or product of two images of codes, to codes: what shortcuts mostly are. 4 * kFloats channels at a time; the others are left to
// channels_from.
template <bool multiply, bool divide>
void two_of_codes(const Combination& f) {
  const Operand& a = f.operands[0];
  const Operand& b = f.operands[1];
  const Target& t = f.targets[0];
  const Coder coder(t);
  const Lanes all(kFloats);
  const FloatVec scale_a = same(a.scale), scale_b = same(b.scale);
  const Vec zero_a = same_ints(a.zero), zero_b = same_ints(b.zero);
  const FloatVec low = same(f.low);
  const FloatVec high = same(f.high);
  const FloatVec divisor = same(divide ? f.divisors[0] : 1.0f);
  const FloatVec inverse = same(t.inverse);
  const int64_t whole = f.channels / (4 * kFloats) * (4 * kFloats);
  const int64_t pixels = f.pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    const uint8_t* from_a = a.codes + p * a.pixel;
    const uint8_t* from_b = b.codes + p * b.pixel;
    uint8_t* to = t.codes + p * t.pixel;
    for (int64_t c = 0; c < whole; c += 4 * kFloats) {
      Vec steps[4];
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const FloatVec x = times(to_floats(minus(load_codes<false>(from_a + c + kFloats * i, all), zero_a)), scale_a);
        const FloatVec y = times(to_floats(minus(load_codes<false>(from_b + c + kFloats * i, all), zero_b)), scale_b);
        const FloatVec v = bounded(multiply ? times(x, y) : plus(x, y), low, high);
        steps[i] = to_ints(at_most(coder.limit, divide ? quotient(v, divisor) : times(v, inverse)));
      }
      store(to + c, packed_bytes(coder.pack(steps[0], steps[1]), coder.pack(steps[2], steps[3])));
    }
    channels_from(f, p, whole);
  }
}

ULP_INLINE void combine_run(const Combination& f) {
  if (f.operand_count == 2 && f.operands[0].codes && f.operands[1].codes && f.target_count == 1 && f.targets[0].codes) {
    if (f.multiply) return f.divisors ? two_of_codes<true, true>(f) : two_of_codes<true, false>(f);
    return f.divisors ? two_of_codes<false, true>(f) : two_of_codes<false, false>(f);
  }
  for (int64_t p = 0; p < f.pixels; ++p) channels_from(f, p, 0);
}

}  // namespace
}  // namespace ulp
