// Ops::depthwise on AVX2, 32 channels at a time over all pixels.
//
//   Taps are taken in pairs. A pair's weights are interleaved channel by channel, w[t][c], w[t + 1][c], and so are the codes of a pixel's
//   two taps; one vpmaddubsw then gives the sums of two products of 16 channels (with 16-bit operands and vpmaddwd, of 8 channels).
//   An odd last tap is paired with weights of 0.
//
// Bounds. A 16-bit sum of n pairs is at most 2 n * max_product: run() spills it to 32 bits every floor(32767 / (2 * max_product)) pairs,
// and takes vpmaddwd, whose 32-bit sums wrap as the contract says, where that is less than 2 (8-bit codes by 7 or 8 bits).
#include "ops_avx2.h"

namespace ulp::ops_avx2 {
namespace {

constexpr int kPart = 32;  // pairs whose weights are interleaved at a time
constexpr int64_t kChannels = 32;

// What the functions below do for 32 channels. `accumulate`: acc holds the sums of earlier pairs.
struct Block {
  const uint8_t* a;
  int64_t step;
  const int64_t* taps;  // two a pair
  int pairs;
  int flush;
  const uint8_t* weights;  // two vectors a pair, or four of 16 bits
  const int32_t* from;     // what the first pixel starts from, 32 values; from_step elements on, the next one
  int64_t from_step;
  int32_t* acc;
  int64_t ld;
  int64_t pixels;
  int64_t n;  // channels written
};

// 8 sums a vector, in the order of the channels.
ULP_INLINE void store_sums(const Block& b, int64_t p, const __m256i sum[4]) {
  const int32_t* from = b.from + p * b.from_step;
  int32_t* acc = b.acc + p * b.ld;
  if (b.n == kChannels) {
    ULP_UNROLL for (int i = 0; i < 4; ++i) {
      const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8 * i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + 8 * i), _mm256_add_epi32(start, sum[i]));
    }
    return;
  }
  ULP_UNROLL for (int i = 0; i < 4; ++i) {
    const int64_t left = b.n - 8 * i;
    if (left <= 0) return;
    const __m256i start = _mm256_maskload_epi32(from + 8 * i, first_lanes(left < 8 ? left : 8));
    store_first(acc + 8 * i, _mm256_add_epi32(start, sum[i]), left < 8 ? left : 8);
  }
}

// Sums of 16 bits, channels 0-7 and 16-23 in x[0], the others in x[1], to 32 bits.
ULP_INLINE void widen(const __m256i x[2], __m256i sum[4]) {
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    sum[i] = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(x[i]));
    sum[2 + i] = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(x[i], 1));
  }
}

ULP_INLINE void add_pair(__m256i x[2], __m256i a0, __m256i a1, __m256i w0, __m256i w1) {
  x[0] = _mm256_add_epi16(x[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a0, a1), w0));
  x[1] = _mm256_add_epi16(x[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a0, a1), w1));
}

// All pairs fit in 16 bits, and their number is known: weights in registers.
template <int pairs>
void known_pairs(const Block& args) {
  const Block b = args;
  const uint8_t* tap[2 * pairs];
  ULP_UNROLL for (int i = 0; i < 2 * pairs; ++i) tap[i] = b.a + b.taps[i];
  __m256i weights[2 * pairs];
  ULP_UNROLL for (int i = 0; i < 2 * pairs; ++i) weights[i] = load(b.weights + i * kVector);
  for (int64_t p = 0; p < b.pixels; ++p) {
    const int64_t at = p * b.step;
    __m256i x[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    ULP_UNROLL for (int i = 0; i < 2 * pairs; i += 2) add_pair(x, load(tap[i] + at), load(tap[i + 1] + at), weights[i], weights[i + 1]);
    __m256i sum[4];
    widen(x, sum);
    store_sums(b, p, sum);
  }
}

void any_pairs(const Block& args) {
  const Block b = args;
  for (int64_t p = 0; p < b.pixels; ++p) {
    const uint8_t* a = b.a + p * b.step;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int done = 0; done < b.pairs;) {
      const int end = b.pairs - done < b.flush ? b.pairs : done + b.flush;
      __m256i x[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (; done < end; ++done) {
        const uint8_t* w = b.weights + 2 * done * kVector;
        add_pair(x, load(a + b.taps[2 * done]), load(a + b.taps[2 * done + 1]), load(w), load(w + kVector));
      }
      __m256i wide[4];
      widen(x, wide);
      ULP_UNROLL for (int i = 0; i < 4; ++i) sum[i] = _mm256_add_epi32(sum[i], wide[i]);
    }
    store_sums(b, p, sum);
  }
}

// Products that do not fit 16 bits in pairs.
void wide_pairs(const Block& args) {
  const Block b = args;
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t p = 0; p < b.pixels; ++p) {
    const uint8_t* a = b.a + p * b.step;
    __m256i quad[4] = {zero, zero, zero, zero};  // channels 0-3 and 16-19; 4-7, 20-23; 8-11, 24-27; 12-15, 28-31
    for (int i = 0; i < b.pairs; ++i) {
      const uint8_t* w = b.weights + 4 * i * kVector;
      const __m256i a0 = load(a + b.taps[2 * i]);
      const __m256i a1 = load(a + b.taps[2 * i + 1]);
      const __m256i lo = _mm256_unpacklo_epi8(a0, a1);
      const __m256i hi = _mm256_unpackhi_epi8(a0, a1);
      const __m256i x[4] = {_mm256_unpacklo_epi8(lo, zero), _mm256_unpackhi_epi8(lo, zero), _mm256_unpacklo_epi8(hi, zero),
                            _mm256_unpackhi_epi8(hi, zero)};
      ULP_UNROLL for (int j = 0; j < 4; ++j) quad[j] = _mm256_add_epi32(quad[j], _mm256_madd_epi16(x[j], load(w + j * kVector)));
    }
    const __m256i sum[4] = {_mm256_permute2x128_si256(quad[0], quad[1], 0x20), _mm256_permute2x128_si256(quad[2], quad[3], 0x20),
                            _mm256_permute2x128_si256(quad[0], quad[1], 0x31), _mm256_permute2x128_si256(quad[2], quad[3], 0x31)};
    store_sums(b, p, sum);
  }
}

void run(const Block& b) {
  if (b.flush < 2) return wide_pairs(b);
  if (b.pairs > b.flush) return any_pairs(b);
  switch (b.pairs) {
    case 1:
      return known_pairs<1>(b);
    case 2:
      return known_pairs<2>(b);
    case 5:
      return known_pairs<5>(b);
    default:
      return any_pairs(b);
  }
}

// The weights of two taps, interleaved; of 16 bits if `wide`. Returns the end.
uint8_t* interleave(const int8_t* w0, const int8_t* w1, bool wide, uint8_t* out) {
  const __m256i x0 = load(reinterpret_cast<const uint8_t*>(w0));
  const __m256i x1 = w1 ? load(reinterpret_cast<const uint8_t*>(w1)) : _mm256_setzero_si256();
  const __m256i pairs[2] = {_mm256_unpacklo_epi8(x0, x1), _mm256_unpackhi_epi8(x0, x1)};
  for (int i = 0; i < 2; ++i) {
    if (wide) {
      // Above the byte, itself; the arithmetic shift leaves its sign there.
      store(out, _mm256_srai_epi16(_mm256_unpacklo_epi8(pairs[i], pairs[i]), 8));
      store(out + kVector, _mm256_srai_epi16(_mm256_unpackhi_epi8(pairs[i], pairs[i]), 8));
      out += 2 * kVector;
    } else {
      store(out, pairs[i]);
      out += kVector;
    }
  }
  return out;
}

}  // namespace

void depthwise(const Depthwise& d) {
  alignas(64) uint8_t weights[4 * kPart * kVector];
  int64_t taps[2 * kPart];
  const int flush = accumulation_length(32767, 2, d.max_product > 0 ? d.max_product : 1);
  for (int64_t c = 0; c < d.channels; c += kChannels) {
    const int64_t n = d.channels - c < kChannels ? d.channels - c : kChannels;
    for (int first = 0; first < d.tap_count || first == 0; first += 2 * kPart) {
      const int left = d.tap_count - first;
      const int count = left < 2 * kPart ? left : 2 * kPart;
      uint8_t* w = weights;
      for (int i = 0; i < count; i += 2) {
        const int8_t* from = d.weights + (first + i) * d.weight_stride + c;
        const bool single = i + 1 == count;
        taps[i] = d.taps[first + i];
        taps[i + 1] = d.taps[first + i + (single ? 0 : 1)];
        w = interleave(from, single ? nullptr : from + d.weight_stride, flush < 2, w);
      }
      // The first taps start from `start`, the others from what is there.
      const int32_t* start = first == 0 ? d.start + c : d.acc + c;
      run({d.a + c, d.step, taps, (count + 1) / 2, flush, weights, start, first == 0 ? 0 : d.ld, d.acc + c, d.ld, d.pixels, n});
    }
  }
}

}  // namespace ulp::ops_avx2
