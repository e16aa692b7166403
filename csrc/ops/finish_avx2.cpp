// Ops::finish on AVX2. Columns are taken 32 at a time, their scales and biases in registers, over all pixels.
//
// Codes grow with the value, so clamping a value is clamping its code:
//
//     code(min(max(v, low), high)) = min(max(code(v), code(low)), code(high))
//
// and the right side is two operations on 32 bytes at once. It needs codes that are right however large a value is, up to where the sums
// end; fits_int32() tells from the scales that rounding to int32 cannot overflow, which is nearly always.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

enum class Kind { none, codes, floats };

// What is known of a call before it starts. `bytes`: codes are clamped, not the values they come from.
template <bool residual_, bool bytes_, Kind first_, Kind second_>
struct Case {
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
template <Kind kind, bool bytes, int vectors, bool part>
struct Writer {
  Coder coder;
  __m256i lowest;
  __m256i highest;
  __m256i offset;
  bool has_lowest;
  uint8_t* codes;
  float* floats;
  int64_t pixel;

  Writer(const Goal& goal, int64_t column)
      : coder(*goal.target),
        lowest(_mm256_set1_epi8(static_cast<char>(goal.lowest))),
        highest(_mm256_set1_epi8(static_cast<char>(goal.highest))),
        offset(_mm256_set1_epi8(static_cast<char>(goal.target->offset))),
        has_lowest(goal.lowest > 0),
        codes(kind == Kind::codes ? goal.target->codes + column : nullptr),
        floats(kind == Kind::floats ? goal.target->floats + column : nullptr),
        pixel(goal.target->pixel) {}

  ULP_INLINE void put(int64_t p, const __m256* v, int64_t n) const {
    if constexpr (kind == Kind::codes && vectors == 4) {
      __m256i x = coder.codes<!bytes>(v);
      if constexpr (bytes) x = _mm256_min_epu8(has_lowest ? _mm256_max_epu8(x, lowest) : x, highest);
      store(codes + p * pixel, _mm256_add_epi8(x, offset));
    } else if constexpr (kind == Kind::codes) {
      __m128i x = coder.codes<!bytes>(v[0]);
      if constexpr (bytes) x = _mm_min_epu8(_mm_max_epu8(x, _mm256_castsi256_si128(lowest)), _mm256_castsi256_si128(highest));
      x = _mm_add_epi8(x, _mm256_castsi256_si128(offset));
      if constexpr (part) {
        store_low(codes + p * pixel, x, n);
      } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + p * pixel), x);
      }
    } else {
      ULP_UNROLL for (int i = 0; i < vectors; ++i) {
        if constexpr (part) {
          store_first(floats + p * pixel, v[i], n);
        } else {
          _mm256_storeu_ps(floats + p * pixel + 8 * i, v[i]);
        }
      }
    }
  }
};

template <bool bytes, int vectors, bool part>
struct Writer<Kind::none, bytes, vectors, part> {
  Writer(const Goal&, int64_t) {}
  ULP_INLINE void put(int64_t, const __m256*, int64_t) const {}
};

template <bool part>
ULP_INLINE __m256 values_at(const float* p, __m256i lanes) {
  return part ? _mm256_maskload_ps(p, lanes) : _mm256_loadu_ps(p);
}

// 8 * vectors columns from `column` on, or, for a part, the last n < 8.
template <class C, int vectors, bool part>
void columns(const Finish& f, const Goal& g0, const Goal& g1, int64_t column, int64_t n) {
  const Writer<C::first, C::bytes, vectors, part> first(g0, column);
  const Writer<C::second, C::bytes, vectors, part> second(g1, column);
  const __m256i lanes = first_lanes(part ? n : 8);
  const __m256 nothing = _mm256_set1_ps(-0.0f);  // leaves what it is added to as it is, zeros included
  __m256 scale[vectors];
  __m256 bias[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    scale[i] = f.one_scale ? _mm256_set1_ps(f.scale[0]) : values_at<part>(f.scale + column + 8 * i, lanes);
    bias[i] = f.bias ? values_at<part>(f.bias + column + 8 * i, lanes) : nothing;
  }
  const __m256 low = _mm256_set1_ps(f.low);
  const __m256 high = _mm256_set1_ps(f.high);
  const __m256 residual_scale = _mm256_set1_ps(f.residual_scale);
  const __m256i residual_zero = _mm256_set1_epi32(f.residual_zero);
  const bool has_residual_zero = f.residual_zero != 0;
  const uint8_t* residual = C::residual ? f.residual + column : nullptr;
  const int64_t residual_pixel = f.residual_pixel;
  const int32_t* acc = f.acc + column;
  const int64_t ld = f.ld;
  const int64_t pixels = f.pixels;

  for (int64_t p = 0; p < pixels; ++p, acc += ld) {
    __m256 v[vectors];
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const __m256i x = part ? _mm256_maskload_epi32(acc, lanes) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc + 8 * i));
      v[i] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(x), scale[i]), bias[i]);
      if constexpr (C::residual) {
        const uint8_t* r = residual + p * residual_pixel + 8 * i;
        __m256i other = _mm256_cvtepu8_epi32(part ? load_first(r, n) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(r)));
        if (has_residual_zero) other = _mm256_sub_epi32(other, residual_zero);
        v[i] = _mm256_add_ps(v[i], _mm256_mul_ps(_mm256_cvtepi32_ps(other), residual_scale));
      }
      if constexpr (C::clamps_values) v[i] = _mm256_min_ps(high, _mm256_max_ps(low, v[i]));
    }
    first.put(p, v, n);
    second.put(p, v, n);
  }
}

template <class C>
void run(const Finish& f, const Goal& g0, const Goal& g1) {
  int64_t column = 0;
  for (; column + 32 <= f.channels; column += 32) columns<C, 4, false>(f, g0, g1, column, 32);
  for (; column + 8 <= f.channels; column += 8) columns<C, 1, false>(f, g0, g1, column, 8);
  if (column < f.channels) columns<C, 1, true>(f, g0, g1, column, f.channels - column);
}

// Whether values times `inverse` are inside +-2^30, which leaves room for the roundings on the way, whatever the sums.
bool fits_int32(const Finish& f, float inverse) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  const __m256 largest_sum = _mm256_set1_ps(2147483648.0f);
  const __m256 residual = _mm256_and_ps(_mm256_set1_ps(f.residual ? 255 * f.residual_scale : 0), magnitude);
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256 limit = _mm256_set1_ps(1073741824.0f);
  __m256 beyond = _mm256_setzero_ps();
  for (int64_t c = 0; c < f.channels; c += 8) {
    const __m256i lanes = first_lanes(f.channels - c < 8 ? f.channels - c : 8);
    const __m256 scale = _mm256_and_ps(f.one_scale ? _mm256_set1_ps(f.scale[0]) : _mm256_maskload_ps(f.scale + c, lanes), magnitude);
    const __m256 bias = f.bias ? _mm256_and_ps(_mm256_maskload_ps(f.bias + c, lanes), magnitude) : _mm256_setzero_ps();
    const __m256 bound = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(scale, largest_sum), bias), residual);
    beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_mul_ps(bound, factor), limit, _CMP_NLT_UQ));
  }
  return _mm256_movemask_ps(beyond) == 0;
}

Goal make_goal(const Finish& f, const Target& t, bool bytes) {
  if (!bytes || !t.codes) return {&t, 0, 0};
  const __m256 bounds = _mm256_castps128_ps256(_mm_setr_ps(f.low, f.high, 0, 0));
  const int codes = _mm_cvtsi128_si32(Coder(t).codes(bounds));
  return {&t, codes & 0xFF, codes >> 8 & 0xFF};
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

// Pixels below which fits_int32 costs more than it saves.
constexpr int64_t kFewPixels = 6;

// One target, or two of which at least one is of codes.
template <bool residual>
void run_targets(const Finish& f, const Target& t0, const Target* t1) {
  if (!t1 && !t0.codes) return run<Case<residual, false, Kind::floats, Kind::none>>(f, {&t0, 0, 0}, {&t0, 0, 0});
  const float inverse = t1 && t1->inverse > t0.inverse ? t1->inverse : t0.inverse;
  const bool bytes = f.pixels >= kFewPixels && fits_int32(f, inverse);
  bytes ? run_kinds<residual, true>(f, t0, t1) : run_kinds<residual, false>(f, t0, t1);
}

void run_targets(const Finish& f, const Target& t0, const Target* t1) {
  f.residual ? run_targets<true>(f, t0, t1) : run_targets<false>(f, t0, t1);
}

}  // namespace

void finish(const Finish& f) {
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

}  // namespace ulp::ops_avx2
