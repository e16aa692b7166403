// Winograd's transforms and products with AVX2; the algebra and its bounds are in winograd_kernels.h.
#include "../gemm/multiply_avx2.h"
#include "winograd_kernels.h"

namespace ulp {
namespace {

__m256i add(__m256i a, __m256i b) { return _mm256_add_epi8(a, b); }
__m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi8(a, b); }

void transform_input(const uint8_t* a, int64_t row, int64_t pixel, int64_t tiles, int64_t channels, int added, uint8_t* v, int64_t v_part,
                     int64_t v_tile) {
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(added));
  for (int64_t t = 0; t < tiles; ++t, a += 2 * pixel, v += v_tile) {
    for (int64_t c = 0; c < channels; c += kVector) {
      __m256i r[4][4];  // B' d: modulo 256, as are all sums until the offset makes them unsigned
      ULP_UNROLL for (int x = 0; x < 4; ++x) {
        const uint8_t* d = a + x * pixel + c;
        const __m256i d0 = load(d), d1 = load(d + row), d2 = load(d + 2 * row), d3 = load(d + 3 * row);
        r[0][x] = sub(d0, d2);
        r[1][x] = add(d1, d2);
        r[2][x] = sub(d2, d1);
        r[3][x] = sub(d1, d3);
      }
      ULP_UNROLL for (int y = 0; y < 4; ++y) {
        uint8_t* to = v + 4 * y * v_part + c;
        const __m256i second = add(r[y][1], r[y][2]);
        store(to, add(sub(r[y][0], r[y][2]), offset));
        store(to + v_part, y == 1 ? second : add(second, offset));
        store(to + 2 * v_part, add(sub(r[y][2], r[y][1]), offset));
        store(to + 3 * v_part, add(sub(r[y][1], r[y][3]), offset));
      }
    }
  }
}

// (x, y, z) -> 2G (x, y, z)
ULP_INLINE void grow(const __m256i& x, const __m256i& y, const __m256i& z, __m256i (&out)[4]) {
  const __m256i ends = add(x, z);
  out[0] = add(x, x);
  out[1] = add(ends, y);
  out[2] = sub(ends, y);
  out[3] = add(z, z);
}

// The 16 parts of one vector of weights; tap(Int<t>) gives its values at tap t.
template <class Tap>
ULP_INLINE void transform_taps(Tap tap, uint8_t* u, int64_t u_part) {
  __m256i rows[4][3];
  unrolled<3>([&](auto x) {
    __m256i column[4];
    grow(tap(x), tap(Int<x.value + 3>{}), tap(Int<x.value + 6>{}), column);
    ULP_UNROLL for (int y = 0; y < 4; ++y) rows[y][x.value] = column[y];
  });
  ULP_UNROLL for (int y = 0; y < 4; ++y) {
    __m256i parts[4];
    grow(rows[y][0], rows[y][1], rows[y][2], parts);
    ULP_UNROLL for (int x = 0; x < 4; ++x) store(u + (4 * y + x) * u_part, parts[x]);
  }
}

// Bipolar weights: -1 and 0 stand for -1 and +1.
template <bool bipolar>
ULP_INLINE __m256i weights_of(__m256i x) {
  return bipolar ? add(add(x, x), _mm256_set1_epi8(1)) : x;
}

template <bool bipolar>
void transform_vectors(const uint8_t* raw, int64_t raw_tap, int64_t vectors, uint8_t* u, int64_t u_part) {
  for (int64_t i = 0; i < vectors; ++i, raw += kVector, u += kVector) {
    transform_taps([&](auto t) { return weights_of<bipolar>(load(raw + t.value * raw_tap)); }, u, u_part);
  }
}

void transform_weights(const uint8_t* raw, int64_t raw_tap, int64_t vectors, bool bipolar, uint8_t* u, int64_t u_part) {
  if (bipolar) return transform_vectors<true>(raw, raw_tap, vectors, u, u_part);
  transform_vectors<false>(raw, raw_tap, vectors, u, u_part);
}

void expand_raw(const BitpackedSlice& s, uint8_t* raw) { expand_signed_codes(static_cast<int>(s.unit_bytes / kVector))(s, raw); }

template <int bits, bool bipolar>
void expand_blocks(const BitpackedSlice& s, int64_t blocks, uint8_t* u, int64_t u_part) {
  const __m256i centre = _mm256_set1_epi8(1 << (bits - 1));
  for (int64_t b = 0; b < blocks; ++b) {
    for (int n = 0; n < s.units; ++n) {
      const uint8_t* taps[9];
      ULP_UNROLL for (int t = 0; t < 9; ++t) taps[t] = bitpacked_unit(s, t * blocks + b, n);
      unrolled<8>([&](auto j) {
        const auto tap = [&](auto t) { return weights_of<bipolar>(sub(code_vector<bits, j.value>(taps[t.value]), centre)); };
        transform_taps(tap, u + ((8 * b + j.value) * s.units + n) * kVector, u_part);
      });
    }
  }
}

void expand(const BitpackedSlice& s, int64_t blocks, bool bipolar, uint8_t* u, int64_t u_part) {
  switch (s.unit_bytes / kVector) {
    case 1:
      return bipolar ? expand_blocks<1, true>(s, blocks, u, u_part) : expand_blocks<1, false>(s, blocks, u, u_part);
    case 2:
      return expand_blocks<2, false>(s, blocks, u, u_part);
    case 3:
      return expand_blocks<3, false>(s, blocks, u, u_part);
    default:
      return expand_blocks<4, false>(s, blocks, u, u_part);
  }
}

int64_t largest_sum(const uint8_t* u, int units, int64_t steps, int64_t run) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i largest = _mm256_setzero_si256();
  for (int n = 0; n < units; ++n) {
    for (int64_t first = 0; first < steps; first += run) {
      const int64_t end = steps - first < run ? steps : first + run;
      __m256i positive = _mm256_setzero_si256();
      __m256i negative = _mm256_setzero_si256();
      for (int64_t i = first; i < end; ++i) {
        const __m256i x = load(u + (i * units + n) * kVector);
        const __m256i p = _mm256_max_epi8(x, _mm256_setzero_si256());
        // Saturating, which only happens beyond what any run may reach.
        positive = _mm256_adds_epi16(positive, _mm256_maddubs_epi16(ones, p));
        negative = _mm256_adds_epi16(negative, _mm256_maddubs_epi16(ones, sub(p, x)));
      }
      largest = _mm256_max_epi16(largest, _mm256_max_epi16(positive, negative));
    }
  }
  alignas(32) int16_t lanes[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  int64_t max = 0;
  for (const int16_t lane : lanes) max = lane > max ? lane : max;
  return max;
}

template <int tiles, int units>
void multiply_tile(const uint8_t* v, int64_t v_tile, const uint8_t* u, int64_t steps, int64_t spill_every, int32_t* out, int64_t ld) {
  const uint8_t* a[tiles];
  ULP_UNROLL for (int r = 0; r < tiles; ++r) a[r] = v + r * v_tile;
  __m256i acc[tiles][units];
  Piece piece{0, steps < spill_every ? steps : spill_every};
  multiply<Mul8>(a, u, &piece, 1, acc);
  ULP_UNROLL for (int r = 0; r < tiles; ++r) {
    ULP_UNROLL for (int n = 0; n < units; ++n) { store(reinterpret_cast<uint8_t*>(out + r * ld + n * kUnitCols), Mul8::widen(acc[r][n])); }
  }
  for (int64_t left = steps - piece.steps; left > 0; left -= piece.steps) {
    piece.a += 4 * piece.steps;
    piece.steps = left < spill_every ? left : spill_every;
    multiply<Mul8>(a, u, &piece, 1, acc);
    ULP_UNROLL for (int r = 0; r < tiles; ++r) {
      ULP_UNROLL for (int n = 0; n < units; ++n) {
        uint8_t* to = reinterpret_cast<uint8_t*>(out + r * ld + n * kUnitCols);
        store(to, _mm256_add_epi32(load(to), Mul8::widen(acc[r][n])));
      }
    }
  }
}

template <int units>
void multiply_tiles(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int64_t steps, int64_t spill_every, int32_t* out,
                    int64_t ld) {
  for (; tiles > 4 || tiles == 3; tiles -= 3, v += 3 * v_tile, out += 3 * ld)
    multiply_tile<3, units>(v, v_tile, u, steps, spill_every, out, ld);
  // Two and two rather than three and one.
  for (; tiles >= 2; tiles -= 2, v += 2 * v_tile, out += 2 * ld) multiply_tile<2, units>(v, v_tile, u, steps, spill_every, out, ld);
  if (tiles == 1) multiply_tile<1, units>(v, v_tile, u, steps, spill_every, out, ld);
}

void multiply_part(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int units, int64_t steps, int64_t spill_every,
                   int32_t* out, int64_t ld) {
  switch (units) {
    case 1:
      return multiply_tiles<1>(v, v_tile, tiles, u, steps, spill_every, out, ld);
    case 2:
      return multiply_tiles<2>(v, v_tile, tiles, u, steps, spill_every, out, ld);
    case 3:
      return multiply_tiles<3>(v, v_tile, tiles, u, steps, spill_every, out, ld);
    default:
      return multiply_tiles<4>(v, v_tile, tiles, u, steps, spill_every, out, ld);
  }
}

__m256i load32(const int32_t* p) { return load(reinterpret_cast<const uint8_t*>(p)); }

void transform_output(const int32_t* m, int64_t m_part, int64_t columns, const int32_t* constants, int64_t constants_ld, int32_t* out,
                      int64_t row, int64_t pixel) {
  for (int64_t n = 0; n < columns; n += 8) {
    __m256i upper[4], lower[4];  // A' m
    ULP_UNROLL for (int x = 0; x < 4; ++x) {
      const int32_t* at = m + x * m_part + n;
      const __m256i m1 = load32(at + 4 * m_part);
      const __m256i m2 = load32(at + 8 * m_part);
      upper[x] = _mm256_add_epi32(_mm256_add_epi32(load32(at), m1), m2);
      lower[x] = _mm256_sub_epi32(_mm256_sub_epi32(m1, m2), load32(at + 12 * m_part));
    }
    const auto put = [&](int p, int32_t* to, __m256i sum) {
      sum = _mm256_srai_epi32(_mm256_add_epi32(sum, load32(constants + p * constants_ld + n)), 2);
      store(reinterpret_cast<uint8_t*>(to + n), sum);
    };
    put(0, out, _mm256_add_epi32(_mm256_add_epi32(upper[0], upper[1]), upper[2]));
    put(1, out + pixel, _mm256_sub_epi32(_mm256_sub_epi32(upper[1], upper[2]), upper[3]));
    put(2, out + row, _mm256_add_epi32(_mm256_add_epi32(lower[0], lower[1]), lower[2]));
    put(3, out + row + pixel, _mm256_sub_epi32(_mm256_sub_epi32(lower[1], lower[2]), lower[3]));
  }
}

constexpr WinogradKernels kKernels{transform_input, expand_raw, transform_weights, expand, largest_sum, multiply_part, transform_output};

}  // namespace

namespace winograd_avx2 {
const WinogradKernels& kernels();
const WinogradKernels& kernels() { return kKernels; }
}  // namespace winograd_avx2

}  // namespace ulp
