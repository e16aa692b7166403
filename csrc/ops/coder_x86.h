// What turns values into the codes of a target, on x86. What it is made of comes from ops_<isa>.h, which includes it.
#pragma once

namespace ulp {
namespace {

struct Coder {
  FloatVec inverse;
  FloatVec limit;  // the largest code's value after scaling
  Vec zero;
  bool has_zero;

  explicit Coder(const Target& t)
      : inverse(same(t.inverse)), limit(same(static_cast<float>(t.max_code - t.zero))), zero(same_words(t.zero)), has_zero(t.zero != 0) {}

  // Codes less the zero. Not clamped below: what is too small for an int32 becomes the smallest one, as does a NaN, and the saturating
  // steps that follow keep it below all others up to the code 0. Without `limited`, the caller clamps the codes above, and must know that
  // no value is too large.
  template <bool limited, bool scaled>
  ULP_INLINE Vec round(FloatVec v) const {
    const FloatVec steps = scaled ? v : times(v, inverse);
    return to_ints(limited ? at_most(limit, steps) : steps);
  }

  ULP_INLINE Vec pack(Vec a, Vec b) const {
    const Vec words = packed_words(a, b);
    return has_zero ? plus_words(words, zero) : words;
  }

  // kFloats * vectors values, or where they are `scaled` steps, to as many codes, in their order.
  template <bool limited = true, int vectors = 4, bool scaled = false>
  ULP_INLINE Vec codes(const FloatVec* v) const {
    Vec x[4];  // the vectors that there are, again and again
    ULP_UNROLL for (int i = 0; i < 4; ++i) x[i] = i < vectors ? round<limited, scaled>(v[i]) : x[i % vectors];
    const Vec low = pack(x[0], x[1]);
    return packed_bytes(low, vectors > 2 ? pack(x[2], x[3]) : low);
  }
};

}  // namespace
}  // namespace ulp
