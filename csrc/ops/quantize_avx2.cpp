// Ops::quantize and Ops::to_planes on AVX2: between planes and pixels.
//
// quantize: tiles of 32 pixels of 16 channels. Each channel's 32 floats become a vector of codes; 16 of those are transposed to the 16
// codes of each pixel. Up to 4 channels, images, have a shorter way.
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

constexpr int kPixels = 32;
constexpr int kChannels = 16;

// The floats of a channel, and the largest bits of a magnitude among all of them.
struct Reader {
  __m256i largest = _mm256_setzero_si256();

  ULP_INLINE __m256 see(__m256 v) {
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF)));
    return v;
  }

  // The first n of 32.
  ULP_INLINE void read(const float* x, int64_t n, __m256 v[4]) {
    if (n == kPixels) {
      ULP_UNROLL for (int i = 0; i < 4; ++i) v[i] = see(_mm256_loadu_ps(x + 8 * i));
      return;
    }
    ULP_UNROLL for (int i = 0; i < 4; ++i) {
      const int64_t left = n - 8 * i;
      v[i] = see(_mm256_maskload_ps(x + 8 * i, first_lanes(left < 0 ? 0 : left < 8 ? left : 8)));
    }
  }

  bool finite() const { return _mm256_testz_si256(_mm256_cmpgt_epi32(largest, _mm256_set1_epi32(0x7F7FFFFF)), _mm256_set1_epi32(-1)); }
};

// r[2 i] and r[2 i + 1] are the bytes of x[i] and x[i + 8], interleaved. That is one step of four, after which the low half of r[i] holds
// byte i of x[0], x[1], ... x[15], and the high half byte 16 + i.
ULP_INLINE void interleave(const __m256i x[kChannels], __m256i r[kChannels]) {
  ULP_UNROLL for (int i = 0; i < kChannels / 2; ++i) {
    r[2 * i] = _mm256_unpacklo_epi8(x[i], x[i + kChannels / 2]);
    r[2 * i + 1] = _mm256_unpackhi_epi8(x[i], x[i + kChannels / 2]);
  }
}

// rows: codes of 16 channels of 32 pixels each. The first n channels of the first `pixels` pixels are written.
void store_pixels(const __m256i rows[kChannels], int64_t n, int64_t pixels, uint8_t* out, int64_t pixel) {
  __m256i even[kChannels];
  __m256i odd[kChannels];
  interleave(rows, odd);
  interleave(odd, even);
  interleave(even, odd);
  interleave(odd, even);
  ULP_UNROLL for (int i = 0; i < kChannels; ++i) {
    if (i < pixels) store_first(out + i * pixel, _mm256_castsi256_si128(even[i]), n);
    if (i + kChannels < pixels) store_first(out + (i + kChannels) * pixel, _mm256_extracti128_si256(even[i], 1), n);
  }
}

// Codes of 4 channels of 32 pixels to 4 bytes per pixel; pixels[i] holds pixels 8 i .. 8 i + 7.
ULP_INLINE void interleave_image(const __m256i rows[4], __m256i pixels[4]) {
  const __m256i low[2] = {_mm256_unpacklo_epi8(rows[0], rows[1]), _mm256_unpackhi_epi8(rows[0], rows[1])};
  const __m256i high[2] = {_mm256_unpacklo_epi8(rows[2], rows[3]), _mm256_unpackhi_epi8(rows[2], rows[3])};
  // Pixels 0-3 and 16-19; 4-7, 20-23; 8-11, 24-27; 12-15, 28-31.
  const __m256i x[4] = {_mm256_unpacklo_epi16(low[0], high[0]), _mm256_unpackhi_epi16(low[0], high[0]),
                        _mm256_unpacklo_epi16(low[1], high[1]), _mm256_unpackhi_epi16(low[1], high[1])};
  pixels[0] = _mm256_permute2x128_si256(x[0], x[1], 0x20);
  pixels[1] = _mm256_permute2x128_si256(x[2], x[3], 0x20);
  pixels[2] = _mm256_permute2x128_si256(x[0], x[1], 0x31);
  pixels[3] = _mm256_permute2x128_si256(x[2], x[3], 0x31);
}

// The first n channels of `count` pixels.
template <int n>
ULP_INLINE void store_image(const __m256i pixels[4], int64_t count, bool more, uint8_t* out, int64_t pixel) {
  if (pixel == 4 && count == kPixels && (n == 4 || more)) {
    // What lies behind a pixel's channels is written back as it was; `more`: behind the last one's, too, is the image.
    const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xFFFFFFFFu >> (32 - 8 * n)));
    ULP_UNROLL for (int i = 0; i < 4; ++i) {
      uint8_t* to = out + i * kVector;
      store(to, n == 4 ? pixels[i] : _mm256_blendv_epi8(load(to), pixels[i], mask));
    }
    return;
  }
  alignas(32) uint8_t staged[4 * kVector];
  ULP_UNROLL for (int i = 0; i < 4; ++i) store(staged + i * kVector, pixels[i]);
  for (int64_t p = 0; p < count; ++p) std::memcpy(out + p * pixel, staged + 4 * p, n);
}

template <int n>
bool quantize_image(const float* x, int64_t plane, int64_t pixels, const Target* targets, int target_count) {
  Reader reader;
  for (int i = 0; i < target_count; ++i) {
    const Target& t = targets[i];
    const Coder coder(t);
    uint8_t* out = t.codes;
    const int64_t pixel = t.pixel;
    for (int64_t p = 0; p < pixels; p += kPixels) {
      const int64_t count = pixels - p < kPixels ? pixels - p : kPixels;
      __m256i rows[4];
      ULP_UNROLL for (int c = 0; c < 4; ++c) {
        rows[c] = _mm256_setzero_si256();
        if (c < n) {
          __m256 v[4];
          reader.read(x + c * plane + p, count, v);
          rows[c] = coder.codes(v);
        }
      }
      __m256i image[4];
      interleave_image(rows, image);
      store_image<n>(image, count, p + kPixels < pixels, out + p * pixel, pixel);
    }
  }
  return reader.finite();
}

}  // namespace

bool quantize(const float* x, int64_t plane, int64_t pixels, int64_t channels, const Target* targets, int target_count) {
  switch (channels) {
    case 1:
      return quantize_image<1>(x, plane, pixels, targets, target_count);
    case 2:
      return quantize_image<2>(x, plane, pixels, targets, target_count);
    case 3:
      return quantize_image<3>(x, plane, pixels, targets, target_count);
    case 4:
      return quantize_image<4>(x, plane, pixels, targets, target_count);
    default:
      break;
  }
  Reader reader;
  for (int64_t p = 0; p < pixels; p += kPixels) {
    const int64_t count = pixels - p < kPixels ? pixels - p : kPixels;
    for (int64_t c = 0; c < channels; c += kChannels) {
      const int64_t n = channels - c < kChannels ? channels - c : kChannels;
      for (int i = 0; i < target_count; ++i) {
        const Target& t = targets[i];
        const Coder coder(t);
        __m256i rows[kChannels];
        for (int64_t j = 0; j < kChannels; ++j) {
          if (j >= n) {
            rows[j] = _mm256_setzero_si256();
            continue;
          }
          __m256 v[4];
          reader.read(x + (c + j) * plane + p, count, v);
          rows[j] = coder.codes(v);
        }
        store_pixels(rows, n, count, t.codes + p * t.pixel + c, t.pixel);
      }
    }
  }
  return reader.finite();
}

void to_planes(const float* x, int64_t pixel, int64_t pixels, int64_t channels, float* out, int64_t plane) {
  if (pixels == 1 && plane == 1) {
    std::memcpy(out, x, static_cast<size_t>(channels) * sizeof(float));
    return;
  }
  for (int64_t p = 0; p < pixels; p += 8) {
    const int64_t count = pixels - p < 8 ? pixels - p : 8;
    for (int64_t c = 0; c < channels; c += 8) {
      const int64_t n = channels - c < 8 ? channels - c : 8;
      const __m256i lanes = first_lanes(n);
      __m256 r[8];
      ULP_UNROLL for (int i = 0; i < 8; ++i) {
        r[i] = i < count ? _mm256_maskload_ps(x + (p + i) * pixel + c, lanes) : _mm256_setzero_ps();
      }
      transpose(r);
      ULP_UNROLL for (int i = 0; i < 8; ++i) {
        if (i < n) store_first(out + (c + i) * plane + p, r[i], count);
      }
    }
  }
}

}  // namespace ulp::ops_avx2
