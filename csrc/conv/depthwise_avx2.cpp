// Depthwise convolution on AVX2, 32 channels at a time over all pixels.
//
//   Taps are taken in pairs. A pair's weights are interleaved channel by channel, w[t][c], w[t + 1][c], and so are the codes of a pixel's
//   two taps; one vpmaddubsw then gives the sums of two products of 16 channels (with 16-bit operands and vpmaddwd, of 8 channels).
//   An odd last tap is paired with weights of 0.
//
// Bounds. A 16-bit sum of n pairs is at most 2 n * max_product: run() spills it to 32 bits every floor(32767 / (2 * max_product)) pairs,
// and takes vpmaddwd, whose 32-bit sums wrap as the contract says, where that is less than 2 (8-bit codes by 7 or 8 bits).
#include "../ops/ops_avx2.h"
#include "depthwise.h"

namespace ulp::depthwise_avx2 {
namespace {

constexpr int kPart = 32;  // pairs whose weights are interleaved at a time
constexpr int64_t kChannels = 32;

// Where the sums of 32 channels go, pixel by pixel, and what they start from.
struct Sums {
  const int32_t* from;
  int64_t from_step;
  int32_t* acc;
  int64_t ld;
  int64_t n;  // channels that there are, 32 or fewer

  // 8 sums per vector, in the order of the channels.
  template <bool whole>
  ULP_INLINE void put(const __m256i sum[4]) {
    ULP_UNROLL for (int i = 0; i < 4; ++i) {
      const int64_t left = n - 8 * i;
      if (whole || left >= 8) {
        const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8 * i));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + 8 * i), _mm256_add_epi32(start, sum[i]));
      } else if (left > 0) {
        const __m256i start = _mm256_maskload_epi32(from + 8 * i, first_lanes(left));
        store_first(acc + 8 * i, _mm256_add_epi32(start, sum[i]), left);
      }
    }
    from += from_step;
    acc += ld;
  }
};

// Sums of 16 bits, channels 0-7 and 16-23 in x[0], the others in x[1], to 32 bits.
ULP_INLINE void widen(const __m256i x[2], __m256i sum[4]) {
  ULP_UNROLL for (int i = 0; i < 2; ++i) {
    sum[i] = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(x[i]));
    sum[2 + i] = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(x[i], 1));
  }
}

// The sums of 16 channels' pairs in x[0], the others' in x[1]; or, for the first pair, all there is of them. Written out because compilers
// load the same codes twice, each time into an unpack, to save a register: loads are what limits this.
template <bool first = false>
ULP_INLINE void add_pair(__m256i x[2], __m256i a0, __m256i a1, __m256i w0, __m256i w1) {
#if defined(__GNUC__)
  if constexpr (first) {
    __asm__ volatile(
        "vpunpcklbw %3, %2, %0\n\tvpunpckhbw %3, %2, %1\n\t"
        "vpmaddubsw %4, %0, %0\n\tvpmaddubsw %5, %1, %1"
        : "=&x"(x[0]), "=&x"(x[1])
        : "x"(a0), "x"(a1), "x"(w0), "x"(w1));
  } else {
    __m256i lo;
    __asm__ volatile(
        "vpunpcklbw %4, %3, %2\n\tvpunpckhbw %4, %3, %3\n\t"
        "vpmaddubsw %5, %2, %2\n\tvpmaddubsw %6, %3, %3\n\t"
        "vpaddw %2, %0, %0\n\tvpaddw %3, %1, %1"
        : "+x"(x[0]), "+x"(x[1]), "=&x"(lo), "+x"(a0)
        : "x"(a1), "x"(w0), "x"(w1));
  }
#else
  const __m256i lo = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a0, a1), w0);
  const __m256i hi = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a0, a1), w1);
  x[0] = first ? lo : _mm256_add_epi16(x[0], lo);
  x[1] = first ? hi : _mm256_add_epi16(x[1], hi);
#endif
}

// 32 channels from c on, or the last of them. All of the few taps' products fit in 16 bits: the weights stay in registers.
template <int taps, bool whole>
void held_block(const Depthwise& d, int64_t c) {
  constexpr int pairs = (taps + 1) / 2;
  static_assert(pairs <= 5, "two vectors per pair");
  const uint8_t* tap[taps];
  ULP_UNROLL for (int i = 0; i < taps; ++i) tap[i] = d.a + d.taps[i] + c;
  const uint8_t* from = reinterpret_cast<const uint8_t*>(d.weights) + c;
  __m256i weights[2 * pairs];
  ULP_UNROLL for (int i = 0; i < pairs; ++i) {
    const __m256i w0 = load(from + 2 * i * d.weight_stride);
    const __m256i w1 = 2 * i + 1 < taps ? load(from + (2 * i + 1) * d.weight_stride) : _mm256_setzero_si256();
    weights[2 * i] = _mm256_unpacklo_epi8(w0, w1);
    weights[2 * i + 1] = _mm256_unpackhi_epi8(w0, w1);
  }
  const int64_t step = d.step;
  const int64_t row_bytes = d.pixels * step;
  Sums sums{d.start + c, 0, d.acc + c, d.ld, d.channels - c};
  for (int64_t r = 0; r < d.rows; ++r) {
    const int64_t begin = r * d.row_step;
    for (int64_t at = begin; at < begin + row_bytes; at += step) {
      __m256i x[2];
      add_pair<true>(x, load(tap[0] + at), load(tap[1] + at), weights[0], weights[1]);
      ULP_UNROLL for (int i = 1; i < pairs; ++i) {
        const __m256i a0 = load(tap[2 * i] + at);
        add_pair(x, a0, 2 * i + 1 < taps ? load(tap[2 * i + 1] + at) : a0, weights[2 * i], weights[2 * i + 1]);
      }
      __m256i sum[4];
      widen(x, sum);
      sums.put<whole>(sum);
    }
  }
}

template <int taps>
void held(const Depthwise& d) {
  int64_t c = 0;
  for (; c + kChannels <= d.channels; c += kChannels) held_block<taps, true>(d, c);
  if (c < d.channels) held_block<taps, false>(d, c);
}

// What the functions below do for 32 channels. Their fields are read one by one: a copy of the struct as a whole would wait for the stores
// that have just filled it.
struct Block {
  const uint8_t* a;
  int64_t step;
  const int64_t* taps;  // two per pair
  int pairs;
  int spill_every;
  const uint8_t* weights;  // two vectors per pair, or four of 16 bits
  int64_t pixels;
  Sums sums;
};

// Pixel p and those behind it, which share the loads of the weights.
template <int pixels>
ULP_INLINE void narrow_pixels(const Block& b, int64_t p, Sums& sums) {
  const int64_t* taps = b.taps;
  const uint8_t* weights = b.weights;
  const uint8_t* a = b.a + p * b.step;
  const int64_t step = b.step;
  const int pairs = b.pairs;
  const int spill_every = b.spill_every;
  const auto sum_up = [&](int begin, int end, __m256i x[pixels][2]) {
    for (int i = begin; i < end; ++i) {
      const __m256i w0 = load(weights + 2 * i * kVector);
      const __m256i w1 = load(weights + (2 * i + 1) * kVector);
      ULP_UNROLL for (int q = 0; q < pixels; ++q) {
        const uint8_t* at = a + q * step;
        add_pair(x[q], load(at + taps[2 * i]), load(at + taps[2 * i + 1]), w0, w1);
      }
    }
  };
  const int64_t n = sums.n;
  __m256i x[pixels][2];
  __m256i sum[pixels][4];
  int end = pairs < spill_every ? pairs : spill_every;
  ULP_UNROLL for (int q = 0; q < pixels; ++q) x[q][0] = x[q][1] = _mm256_setzero_si256();
  sum_up(0, end, x);
  ULP_UNROLL for (int q = 0; q < pixels; ++q) widen(x[q], sum[q]);
  while (end < pairs) {
    const int begin = end;
    end = pairs - begin < spill_every ? pairs : begin + spill_every;
    ULP_UNROLL for (int q = 0; q < pixels; ++q) x[q][0] = x[q][1] = _mm256_setzero_si256();
    sum_up(begin, end, x);
    ULP_UNROLL for (int q = 0; q < pixels; ++q) {
      __m256i wide[4];
      widen(x[q], wide);
      ULP_UNROLL for (int i = 0; i < 4; ++i) sum[q][i] = _mm256_add_epi32(sum[q][i], wide[i]);
    }
  }
  ULP_UNROLL for (int q = 0; q < pixels; ++q) n == kChannels ? sums.put<true>(sum[q]) : sums.put<false>(sum[q]);
}

void narrow_pairs(const Block& b) {
  Sums sums{b.sums.from, b.sums.from_step, b.sums.acc, b.sums.ld, b.sums.n};
  const int64_t pixels = b.pixels;
  int64_t p = 0;
  for (; p + 2 <= pixels; p += 2) narrow_pixels<2>(b, p, sums);
  if (p < pixels) narrow_pixels<1>(b, p, sums);
}

// Products that do not fit 16 bits in pairs.
void wide_pairs(const Block& b) {
  const __m256i zero = _mm256_setzero_si256();
  const int64_t* taps = b.taps;
  const uint8_t* weights = b.weights;
  const uint8_t* a = b.a;
  const int64_t step = b.step;
  const int64_t pixels = b.pixels;
  const int pairs = b.pairs;
  Sums sums{b.sums.from, b.sums.from_step, b.sums.acc, b.sums.ld, b.sums.n};
  for (int64_t p = 0; p < pixels; ++p, a += step) {
    __m256i quad[4] = {zero, zero, zero, zero};  // channels 0-3 and 16-19; 4-7, 20-23; 8-11, 24-27; 12-15, 28-31
    for (int i = 0; i < pairs; ++i) {
      const uint8_t* w = weights + 4 * i * kVector;
      const __m256i a0 = load(a + taps[2 * i]);
      const __m256i a1 = load(a + taps[2 * i + 1]);
      const __m256i lo = _mm256_unpacklo_epi8(a0, a1);
      const __m256i hi = _mm256_unpackhi_epi8(a0, a1);
      const __m256i x[4] = {_mm256_unpacklo_epi8(lo, zero), _mm256_unpackhi_epi8(lo, zero), _mm256_unpacklo_epi8(hi, zero),
                            _mm256_unpackhi_epi8(hi, zero)};
      ULP_UNROLL for (int j = 0; j < 4; ++j) quad[j] = _mm256_add_epi32(quad[j], _mm256_madd_epi16(x[j], load(w + j * kVector)));
    }
    const __m256i sum[4] = {_mm256_permute2x128_si256(quad[0], quad[1], 0x20), _mm256_permute2x128_si256(quad[2], quad[3], 0x20),
                            _mm256_permute2x128_si256(quad[0], quad[1], 0x31), _mm256_permute2x128_si256(quad[2], quad[3], 0x31)};
    sums.put<false>(sum);
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

void run(const Depthwise& args);
void run(const Depthwise& args) {
  alignas(64) uint8_t weights[4 * kPart * kVector];
  int64_t taps[2 * kPart];
  const int spill_every = accumulation_length(32767, 2, args.max_product > 0 ? args.max_product : 1);
  if (args.tap_count == 9 && spill_every >= 5) return held<9>(args);
  if (args.tap_count == 3 && spill_every >= 2) return held<3>(args);
  if (args.rows > 1) {
    for (int64_t r = 0; r < args.rows; ++r) run(row_of(args, r));
    return;
  }
  const Depthwise d = args;
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
        w = interleave(from, single ? nullptr : from + d.weight_stride, spill_every < 2, w);
      }
      // The first taps start from `start`, the others from what is there.
      const int32_t* start = first == 0 ? d.start + c : d.acc + c;
      const Sums sums{start, first == 0 ? 0 : d.ld, d.acc + c, d.ld, n};
      const Block b{d.a + c, d.step, taps, (count + 1) / 2, spill_every, weights, d.pixels, sums};
      spill_every < 2 ? wide_pairs(b) : narrow_pairs(b);
    }
  }
}

}  // namespace ulp::depthwise_avx2
