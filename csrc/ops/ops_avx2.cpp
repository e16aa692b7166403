// The AVX2 table, and the smaller functions in it.
#include "ops_avx2.h"

#include "window_max_x86.h"

namespace ulp {
namespace {

// Codes gather in 16 bits for 257 pixels: 257 * 255 = 65535.
constexpr int kSumPixels = 257;
static_assert(kSumPixels * 255 <= 65535, "u16 sums");

// The sums of 32 channels: bytes 0-7 and 16-23 of the codes in words[0], the others in words[1].
struct Gathered {
  __m256i words[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};

  ULP_INLINE void add(__m256i codes) {
    const __m256i zero = _mm256_setzero_si256();
    words[0] = _mm256_add_epi16(words[0], _mm256_unpacklo_epi8(codes, zero));
    words[1] = _mm256_add_epi16(words[1], _mm256_unpackhi_epi8(codes, zero));
  }

  // 8 channels a vector, in their order.
  ULP_INLINE void widen(__m256i sum[4]) const {
    ULP_UNROLL for (int i = 0; i < 2; ++i) {
      sum[i] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words[i]));
      sum[2 + i] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words[i], 1));
    }
  }
};

ULP_INLINE void store_sums(const __m256i sum[4], int64_t n, int32_t* out) {
  ULP_UNROLL for (int i = 0; i < 4; ++i) {
    const int64_t left = n - 8 * i;
    if (left > 0) store_first(out + 8 * i, sum[i], left < 8 ? left : 8);
  }
}

// Windows of at most kSumPixels.
template <int vectors>
ULP_INLINE void small_sum(const Window& w, int64_t channel, int32_t* out) {
  Gathered gathered[vectors];
  for_window(w, channel, [&](const uint8_t* a) { ULP_UNROLL for (int i = 0; i < vectors; ++i) gathered[i].add(load(a + i * kVector)); });
  ULP_UNROLL for (int i = 0; i < vectors; ++i) {
    __m256i sum[4];
    gathered[i].widen(sum);
    store_sums(sum, w.channels - channel - i * kVector, out + channel + i * kVector);
  }
}

void large_sum(const Window& w, int64_t channel, int32_t* out) {
  Gathered gathered;
  int left = kSumPixels;
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  const auto spill = [&] {
    __m256i part[4];
    gathered.widen(part);
    ULP_UNROLL for (int i = 0; i < 4; ++i) sum[i] = _mm256_add_epi32(sum[i], part[i]);
    gathered = Gathered{};
    left = kSumPixels;
  };
  for_window(w, channel, [&](const uint8_t* a) {
    gathered.add(load(a));
    if (--left == 0) spill();
  });
  spill();
  store_sums(sum, w.channels - channel, out + channel);
}

void window_sum(const Window& args, int32_t* out) {
  const Window w = args;
  const int64_t rows = (w.y1 - w.y0 + w.y_step - 1) / w.y_step;
  const int64_t columns = (w.x1 - w.x0 + w.x_step - 1) / w.x_step;
  if (rows * columns > kSumPixels) {
    for (int64_t c = 0; c < w.channels; c += kVector) large_sum(w, c, out);
    return;
  }
  int64_t c = 0;
  for (; c + kVector < w.channels; c += 2 * kVector) small_sum<2>(w, c, out);
  if (c < w.channels) small_sum<1>(w, c, out);
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
  static const Ops table{ops_avx2::finish, window_max,          window_sum,       ops_avx2::quantize,
                         channel_sum,      ops_avx2::to_planes, ops_avx2::lookup, ops_avx2::lookup_pairs,
                         ops_avx2::combine};
  return table;
}

}  // namespace ulp
