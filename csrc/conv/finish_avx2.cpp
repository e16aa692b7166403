// Ops::finish on AVX2. Columns are taken 32 at a time, their scales and biases in registers, over all pixels.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

enum class Kind { none, codes, floats };

// What is known of a call before it starts. `clamp`: low and high have an effect that the targets' own clamps do not have anyway.
template <bool residual_, bool clamp_, Kind first_, Kind second_>
struct Case {
  static constexpr bool residual = residual_;
  static constexpr bool clamp = clamp_;
  static constexpr Kind first = first_;
  static constexpr Kind second = second_;
};

// Where a target's columns go.
template <Kind kind, int vectors, bool part>
struct Sink {
  Coder coder;
  uint8_t* codes;
  float* floats;
  int64_t pixel;

  Sink(const Target& t, int64_t column)
      : coder(t), codes(t.codes ? t.codes + column : nullptr), floats(t.floats ? t.floats + column : nullptr), pixel(t.pixel) {}

  ULP_INLINE void put(int64_t p, const __m256* v, int64_t n) const {
    if constexpr (kind == Kind::codes && vectors == 4) {
      store(codes + p * pixel, coder.codes(v));
    } else if constexpr (kind == Kind::codes) {
      const __m128i eight = coder.codes(v[0]);
      if constexpr (part) {
        store_low(codes + p * pixel, eight, n);
      } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + p * pixel), eight);
      }
    } else {
      for (int i = 0; i < vectors; ++i) {
        if constexpr (part) {
          store_first(floats + p * pixel, v[i], n);
        } else {
          _mm256_storeu_ps(floats + p * pixel + 8 * i, v[i]);
        }
      }
    }
  }
};

template <int vectors, bool part>
struct Sink<Kind::none, vectors, part> {
  Sink(const Target&, int64_t) {}
  ULP_INLINE void put(int64_t, const __m256*, int64_t) const {}
};

// 8 * vectors columns from `column` on, or, for a part, the last n < 8.
template <class C, int vectors, bool part>
void columns(const Finish& f, const Target& t0, const Target& t1, int64_t column, int64_t n) {
  const Sink<C::first, vectors, part> first(t0, column);
  const Sink<C::second, vectors, part> second(t1, column);
  const __m256i lanes = first_lanes(part ? n : 8);
  __m256 scale[vectors];
  __m256 bias[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    const float* s = f.scale + column + 8 * i;
    const float* b = f.bias + column + 8 * i;
    scale[i] = part ? _mm256_maskload_ps(s, lanes) : _mm256_loadu_ps(s);
    bias[i] = part ? _mm256_maskload_ps(b, lanes) : _mm256_loadu_ps(b);
  }
  const __m256 low = _mm256_set1_ps(f.low);
  const __m256 high = _mm256_set1_ps(f.high);
  const __m256 residual_scale = _mm256_set1_ps(f.residual_scale);
  const __m256i residual_zero = _mm256_set1_epi32(f.residual_zero);
  const int32_t* acc = f.acc + column;
  const int64_t ld = f.ld;
  const uint8_t* residual = C::residual ? f.residual + column : nullptr;
  const int64_t residual_pixel = f.residual_pixel;
  const int64_t pixels = f.pixels;

  for (int64_t p = 0; p < pixels; ++p, acc += ld) {
    __m256 v[vectors];
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const __m256i x = part ? _mm256_maskload_epi32(acc, lanes) : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc + 8 * i));
      v[i] = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(x), scale[i]), bias[i]);
      if constexpr (C::residual) {
        const uint8_t* r = residual + p * residual_pixel + 8 * i;
        const __m128i bytes = part ? load_first(r, n) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(r));
        const __m256 other = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), residual_zero));
        v[i] = _mm256_add_ps(v[i], _mm256_mul_ps(other, residual_scale));
      }
      if constexpr (C::clamp) v[i] = _mm256_min_ps(_mm256_max_ps(v[i], low), high);
    }
    first.put(p, v, n);
    second.put(p, v, n);
  }
}

template <class C>
void run(const Finish& f, const Target& t0, const Target& t1) {
  int64_t column = 0;
  for (; column + 32 <= f.channels; column += 32) columns<C, 4, false>(f, t0, t1, column, 32);
  for (; column + 8 <= f.channels; column += 8) columns<C, 1, false>(f, t0, t1, column, 8);
  if (column < f.channels) columns<C, 1, true>(f, t0, t1, column, f.channels - column);
}

// Codes grow with the value, so a bound whose own code is the last one of its side changes no code.
bool clamps(const Finish& f, const Target& t) {
  constexpr float kInfinity = __builtin_inff();
  if (!t.codes) return f.low != -kInfinity || f.high != kInfinity;
  const Coder coder(t);
  const __m256 bounds = _mm256_castps128_ps256(_mm_setr_ps(f.low, f.high, 0, 0));
  const int codes = _mm_cvtsi128_si32(coder.codes(bounds)) & 0xFFFF;
  return codes != t.max_code << 8;
}

template <bool residual, bool clamp>
void run_kinds(const Finish& f, const Target& t0, const Target* t1) {
  if (!t1) {
    return t0.codes ? run<Case<residual, clamp, Kind::codes, Kind::none>>(f, t0, t0)
                    : run<Case<residual, clamp, Kind::floats, Kind::none>>(f, t0, t0);
  }
  if (!t0.codes) return run<Case<residual, clamp, Kind::codes, Kind::floats>>(f, *t1, t0);
  t1->codes ? run<Case<residual, clamp, Kind::codes, Kind::codes>>(f, t0, *t1)
            : run<Case<residual, clamp, Kind::codes, Kind::floats>>(f, t0, *t1);
}

// One target, or two of which at least one is of codes.
void run_targets(const Finish& f, const Target& t0, const Target* t1) {
  const bool clamp = clamps(f, t0) || (t1 && clamps(f, *t1));
  if (f.residual) {
    clamp ? run_kinds<true, true>(f, t0, t1) : run_kinds<true, false>(f, t0, t1);
  } else {
    clamp ? run_kinds<false, true>(f, t0, t1) : run_kinds<false, false>(f, t0, t1);
  }
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
