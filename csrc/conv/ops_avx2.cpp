// The AVX2 table, and the smaller functions in it.
#include "ops_avx2.h"

namespace ulp {
namespace {

// f(codes of `channel` on) for every pixel of the window.
template <class F>
ULP_INLINE void for_window(const Window& w, int64_t channel, F f) {
  const uint8_t* first = w.a + channel;
  for (int y = w.y0; y < w.y1; y += w.y_step) {
    for (int x = w.x0; x < w.x1; x += w.x_step) f(first + y * w.row + x * w.pixel);
  }
}

template <int vectors>
ULP_INLINE void max_of(const Window& w, int64_t channel, uint8_t* out) {
  __m256i largest[vectors];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) largest[i] = _mm256_setzero_si256();
  for_window(w, channel, [&](const uint8_t* a) {
    ULP_UNROLL for (int i = 0; i < vectors; ++i) largest[i] = _mm256_max_epu8(largest[i], load(a + i * kVector));
  });
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    const int64_t left = w.channels - channel - i * kVector;
    store_first(out + channel + i * kVector, largest[i], left < kVector ? left : kVector);
  }
}

void window_max(const Window& args, uint8_t* out) {
  const Window w = args;  // a copy that no store can alias
  int64_t c = 0;
  for (; c + 3 * kVector < w.channels; c += 4 * kVector) max_of<4>(w, c, out);
  for (; c < w.channels; c += kVector) max_of<1>(w, c, out);
}

// Codes gather in 16 bits for 257 pixels: 257 * 255 = 65535.
constexpr int kSumPixels = 257;
static_assert(kSumPixels * 255 <= 65535, "u16 sums");

// 32 channels; bytes 0-7 and 16-23 of the codes in x[0], the others in x[1].
ULP_INLINE void spill_sums(__m256i x[2], __m256i sum[4]) {
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    sum[i] = _mm256_add_epi32(sum[i], _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x[i])));
    sum[2 + i] = _mm256_add_epi32(sum[2 + i], _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x[i], 1)));
    x[i] = _mm256_setzero_si256();
  }
}

template <int vectors>
ULP_INLINE void sum_of(const Window& w, int64_t channel, int32_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i x[vectors][2];
  __m256i sum[vectors][4];
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    x[i][0] = x[i][1] = zero;
    sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = zero;
  }
  int left = kSumPixels;
  for_window(w, channel, [&](const uint8_t* a) {
    ULP_UNROLL for (int i = 0; i < vectors; ++i) {
      const __m256i codes = load(a + i * kVector);
      x[i][0] = _mm256_add_epi16(x[i][0], _mm256_unpacklo_epi8(codes, zero));
      x[i][1] = _mm256_add_epi16(x[i][1], _mm256_unpackhi_epi8(codes, zero));
    }
    if (--left > 0) return;
    left = kSumPixels;
    ULP_UNROLL for (int i = 0; i < vectors; ++i) spill_sums(x[i], sum[i]);
  });
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    spill_sums(x[i], sum[i]);
    ULP_UNROLL for (int j = 0; j < 4; ++j) {
      const int64_t at = channel + i * kVector + 8 * j;
      if (at >= w.channels) return;
      store_first(out + at, sum[i][j], w.channels - at < 8 ? w.channels - at : 8);
    }
  }
}

void window_sum(const Window& args, int32_t* out) {
  const Window w = args;
  int64_t c = 0;
  for (; c + kVector < w.channels; c += 2 * kVector) sum_of<2>(w, c, out);
  if (c < w.channels) sum_of<1>(w, c, out);
}

ULP_INLINE int32_t add_lanes(__m256i sums) {
  const __m128i x = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si32(_mm_add_epi64(x, _mm_unpackhi_epi64(x, x)));
}

void channel_sum(const uint8_t* a, int64_t pixel, int64_t pixels, int64_t channels, int32_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  const int64_t whole = channels / kVector * kVector;
  const int64_t rest = channels - whole;
  alignas(32) uint8_t mask[kVector];
  for (int i = 0; i < kVector; ++i) mask[i] = i < rest ? 0xFF : 0;
  const __m256i first = load(mask);
  for (int64_t p = 0; p < pixels; ++p, a += pixel) {
    __m256i sums = zero;
    for (int64_t c = 0; c < whole; c += kVector) sums = _mm256_add_epi64(sums, _mm256_sad_epu8(load(a + c), zero));
    int32_t tail = 0;
    if (whole + kVector <= (pixels - 1 - p) * pixel + channels) {  // up to the end of the last pixel
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_and_si256(load(a + whole), first), zero));
    } else {
      for (int64_t c = whole; c < channels; ++c) tail += a[c];
    }
    out[p] = add_lanes(sums) + tail;
  }
}

}  // namespace

const Ops& avx2_ops() {
  static const Ops table{ops_avx2::finish,   ops_avx2::depthwise, window_max,         window_sum,
                         ops_avx2::quantise, channel_sum,         ops_avx2::to_planes};
  return table;
}

}  // namespace ulp
