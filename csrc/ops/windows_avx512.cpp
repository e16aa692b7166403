// Ops::window_max, window_sum and channel_sum on AVX-512.
#include "ops_avx512.h"

#include "window_max_x86.h"

namespace ulp::ops_avx512 {
namespace {

// Codes gather in 16 bits for 257 pixels: 257 * 255 = 65535.
constexpr int kSumPixels = 257;
static_assert(kSumPixels * 255 <= 65535, "u16 sums");
constexpr int kWords = 32;  // channels in a vector of 16-bit sums

// out[c] (= or +=) the sums of the first n of 32 channels.
ULP_INLINE void put_words(Vec words, int64_t n, bool adds, int32_t* out) {
  const __m256i halves[2] = {_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1)};
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    const int64_t left = n - kFloats * i;
    const Lanes lanes(left < 0 ? 0 : left < kFloats ? left : kFloats);
    const Vec sums = _mm512_cvtepu16_epi32(halves[i]);
    int32_t* to = out + kFloats * i;
    _mm512_mask_storeu_epi32(to, lanes.mask, adds ? add_sums(sums, _mm512_maskz_loadu_epi32(lanes.mask, to)) : sums);
  }
}

// The channels of `vectors` vectors from `channel` on.
template <int vectors>
ULP_INLINE void sum_of(const Window& w, int64_t channel, int32_t* out) {
  int64_t left[vectors];
  __mmask32 lanes[vectors];
  Vec words[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    const int64_t channels = w.channels - channel - i * kWords;
    left[i] = channels < kWords ? channels : kWords;
    lanes[i] = static_cast<__mmask32>(first_bytes(left[i]));
    words[i] = zero();
  }
  int room = kSumPixels;
  bool adds = false;
  for_window(w, channel, [&](const uint8_t* a) {
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      words[i] = _mm512_add_epi16(words[i], _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes[i], a + i * kWords)));
    }
    if (--room > 0) return;
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      put_words(words[i], left[i], adds, out + channel + i * kWords);
      words[i] = zero();
    }
    adds = true;
    room = kSumPixels;
  });
  ULP_UNROLL for (int i = 0; i < vectors; ++i) put_words(words[i], left[i], adds, out + channel + i * kWords);
}

}  // namespace

void window_max(const Window& w, uint8_t* out) { ulp::window_max(w, out); }

void window_sum(const Window& args, int32_t* out) {
  const Window w = args;  // a copy that no store can alias
  int64_t c = 0;
  for (; c + 3 * kWords < w.channels; c += 4 * kWords) sum_of<4>(w, c, out);
  for (; c < w.channels; c += kWords) sum_of<1>(w, c, out);
}

void channel_sum(const uint8_t* a, int64_t pixel, int64_t pixels, int64_t channels, int32_t* out) {
  const int64_t whole = channels / kVecBytes * kVecBytes;
  const __mmask64 rest = first_bytes(channels - whole);
  for (int64_t p = 0; p < pixels; ++p, a += pixel) {
    Vec sums = _mm512_sad_epu8(_mm512_maskz_loadu_epi8(rest, a + whole), zero());
    for (int64_t c = 0; c < whole; c += kVecBytes) sums = _mm512_add_epi64(sums, _mm512_sad_epu8(load(a + c), zero()));
    out[p] = static_cast<int32_t>(_mm512_reduce_add_epi64(sums));
  }
}

}  // namespace ulp::ops_avx512
