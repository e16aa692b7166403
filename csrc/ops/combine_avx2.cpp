// Ops::combine on AVX2: 32 channels at a time.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

// The values of 8 channels, or of the first n of them.
template <bool part>
ULP_INLINE __m256 values_of(const Operand& o, int64_t at, int64_t n) {
  if (!o.codes) return part ? _mm256_maskload_ps(o.floats + at, first_lanes(n)) : _mm256_loadu_ps(o.floats + at);
  const uint8_t* a = o.codes + at;
  const __m256i codes = _mm256_cvtepu8_epi32(part ? load_first(a, n) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)));
  const __m256i steps = _mm256_sub_epi32(codes, _mm256_set1_epi32(o.zero));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(steps), _mm256_set1_ps(o.scale));
}

// 8 * vectors channels of a pixel from `c` on, or, for a part, the last n < 8.
template <int vectors, bool part>
ULP_INLINE void channels_of(const Combination& f, int64_t p, int64_t c, int64_t n) {
  __m256 v[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) v[i] = values_of<part>(f.operands[0], p * f.operands[0].pixel + c + 8 * i, n);
  for (int k = 1; k < f.operand_count; ++k) {
    const Operand& o = f.operands[k];
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const __m256 w = values_of<part>(o, p * o.pixel + c + 8 * i, n);
      v[i] = f.multiply ? _mm256_mul_ps(v[i], w) : _mm256_add_ps(v[i], w);
    }
  }
  const __m256 low = _mm256_set1_ps(f.low);
  const __m256 high = _mm256_set1_ps(f.high);
  ULP_UNROLL for (int i = 0; i < vectors; ++i) v[i] = _mm256_min_ps(high, _mm256_max_ps(low, v[i]));
  for (int j = 0; j < f.target_count; ++j) {
    const Target& t = f.targets[j];
    const int64_t at = p * t.pixel + c;
    if (!t.codes) {
      ULP_UNROLL for (int i = 0; i < vectors; ++i) {
        part ? store_first(t.floats + at, v[i], n) : _mm256_storeu_ps(t.floats + at + 8 * i, v[i]);
      }
      continue;
    }
    Coder coder(t);
    __m256 steps[vectors];
    if (f.divisors) coder.inverse = _mm256_set1_ps(1.0f);
    ULP_UNROLL for (int i = 0; i < vectors; ++i) steps[i] = f.divisors ? _mm256_div_ps(v[i], _mm256_set1_ps(f.divisors[j])) : v[i];
    store_codes<vectors, part>(t.codes + at, coder.codes<true, vectors>(steps), Lanes(part ? n : kFloats));
  }
}

// A sum or product of two images of codes, to codes: what shortcuts mostly are. 32 channels at a time; the others are left to channels_of.
template <bool multiply, bool divide>
void two_of_codes(const Combination& f) {
  const Operand& a = f.operands[0];
  const Operand& b = f.operands[1];
  const Target& t = f.targets[0];
  const Coder coder(t);
  const __m256 scales[2] = {_mm256_set1_ps(a.scale), _mm256_set1_ps(b.scale)};
  const __m256i zeros[2] = {_mm256_set1_epi32(a.zero), _mm256_set1_epi32(b.zero)};
  const __m256 low = _mm256_set1_ps(f.low);
  const __m256 high = _mm256_set1_ps(f.high);
  const __m256 divisor = _mm256_set1_ps(divide ? f.divisors[0] : 1.0f);
  const __m256 inverse = _mm256_set1_ps(t.inverse);
  const int64_t whole = f.channels / 32 * 32;
  const int64_t channels = f.channels;
  const int64_t pixels = f.pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    const uint8_t* from_a = a.codes + p * a.pixel;
    const uint8_t* from_b = b.codes + p * b.pixel;
    uint8_t* to = t.codes + p * t.pixel;
    for (int64_t c = 0; c < whole; c += 32) {
      __m256i steps[4];
      ULP_UNROLL for (int i = 0; i < 4; ++i) {
        const auto value = [&](const uint8_t* codes, int k) {
          const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + c + 8 * i)));
          return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(x, zeros[k])), scales[k]);
        };
        const __m256 x = value(from_a, 0);
        const __m256 y = value(from_b, 1);
        const __m256 v = _mm256_min_ps(high, _mm256_max_ps(low, multiply ? _mm256_mul_ps(x, y) : _mm256_add_ps(x, y)));
        const __m256 scaled = divide ? _mm256_div_ps(v, divisor) : _mm256_mul_ps(v, inverse);
        steps[i] = _mm256_cvtps_epi32(_mm256_min_ps(coder.limit, scaled));
      }
      const __m256i packed = _mm256_packus_epi16(coder.pack(steps[0], steps[1]), coder.pack(steps[2], steps[3]));
      store(to + c, _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    int64_t c = whole;
    for (; c + 8 <= channels; c += 8) channels_of<1, false>(f, p, c, 8);
    if (c < channels) channels_of<1, true>(f, p, c, channels - c);
  }
}

}  // namespace

void combine(const Combination& f) {
  if (f.operand_count == 2 && f.operands[0].codes && f.operands[1].codes && f.target_count == 1 && f.targets[0].codes) {
    if (f.multiply) return f.divisors ? two_of_codes<true, true>(f) : two_of_codes<true, false>(f);
    return f.divisors ? two_of_codes<false, true>(f) : two_of_codes<false, false>(f);
  }
  for (int64_t p = 0; p < f.pixels; ++p) {
    int64_t c = 0;
    for (; c + 32 <= f.channels; c += 32) channels_of<4, false>(f, p, c, 32);
    for (; c + 8 <= f.channels; c += 8) channels_of<1, false>(f, p, c, 8);
    if (c < f.channels) channels_of<1, true>(f, p, c, f.channels - c);
  }
}

}  // namespace ulp::ops_avx2
