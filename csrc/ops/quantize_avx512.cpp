// Ops::quantize on AVX-512, for images of up to 4 channels; others, and pixels that lie otherwise than without gaps or 4 bytes apart, are
// left to AVX2.
//
// 16 pixels at a time: the codes of their channels are put together in one lane of 32 bits per pixel, of which a shuffle and a permutation
// keep the bytes that there are. Ceiling on Sapphire Rapids, 3 channels: 24 operations of which two start per cycle, 12 cycles for 48
// values.
#include "ops_avx512.h"

namespace ulp::ops_avx512 {
namespace {

// _mm512_fpclass_ps_mask: quiet NaN, infinities, signalling NaN.
constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;

// Bytes 0 .. n - 1 of every lane of 32 bits, without gaps.
template <int n>
ULP_INLINE Vec compact(Vec x) {
  if constexpr (n == 4) return x;
  const Vec bytes = _mm512_broadcast_i32x4(n == 1   ? _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1)
                                           : n == 2 ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1)
                                                    : _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const Vec lanes = n == 1   ? _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
                    : n == 2 ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                             : _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
  return _mm512_permutexvar_epi32(lanes, _mm512_shuffle_epi8(x, bytes));
}

template <int n>
bool quantize_image(const float* x, int64_t plane, int64_t pixels, const Target& t) {
  const FloatVec inverse = same(t.inverse);
  const FloatVec limit = same(static_cast<float>(t.max_code - t.zero));
  const Vec zero_code = same_ints(t.zero);
  // The channels' bytes of pixels 4 bytes apart; what lies behind them stays.
  const __mmask64 channels = 0x1111111111111111u * ((1u << n) - 1);
  const bool gaps = t.pixel != n;
  uint8_t* out = t.codes;
  __mmask16 bad = 0;
  for (int64_t p = 0; p < pixels; p += kFloats) {
    const int64_t count = pixels - p < kFloats ? pixels - p : kFloats;
    const Lanes lanes(count);
    Vec all = zero();
    ULP_UNROLL for (int c = 0; c < n; ++c) {
      const FloatVec v = load_floats<true>(x + c * plane + p, lanes);
      bad = static_cast<__mmask16>(bad | _mm512_fpclass_ps_mask(v, kNotFinite));
      // As Coder: too small a value, or a NaN, becomes the smallest int32, which stays below all codes.
      const Vec steps = _mm512_cvtps_epi32(_mm512_min_ps(limit, times(v, inverse)));
      const Vec code = _mm512_max_epi32(_mm512_add_epi32(steps, zero_code), zero());
      all = _mm512_or_si512(all, _mm512_slli_epi32(code, static_cast<unsigned>(8 * c)));
    }
    if (gaps) {
      _mm512_mask_storeu_epi8(out + 4 * p, channels & first_bytes(4 * count), all);
    } else {
      _mm512_mask_storeu_epi8(out + n * p, first_bytes(n * count), compact<n>(all));
    }
  }
  return bad == 0;
}

}  // namespace

bool quantize(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count) {
  bool finite = true;
  for (int i = 0; i < target_count; ++i) {
    const Target& t = targets[i];
    const bool here = channels <= 4 && (t.pixel == channels || t.pixel == 4);
    switch (here ? channels : 0) {
      case 1:
        finite &= quantize_image<1>(x, plane, pixels, t);
        break;
      case 2:
        finite &= quantize_image<2>(x, plane, pixels, t);
        break;
      case 3:
        finite &= quantize_image<3>(x, plane, pixels, t);
        break;
      case 4:
        finite &= quantize_image<4>(x, plane, pixels, t);
        break;
      default:
        finite &= ops_avx2::quantize(x, plane, pixels, channels, &t, 1);
    }
  }
  return finite;
}

}  // namespace ulp::ops_avx512
