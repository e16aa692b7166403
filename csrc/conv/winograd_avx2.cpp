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

template <bool bipolar>
void transform_vectors(const uint8_t* raw, int64_t raw_tap, int64_t vectors, uint8_t* u, int64_t u_part) {
  for (int64_t i = 0; i < vectors; ++i, raw += kVector, u += kVector) {
    __m256i rows[4][3];
    ULP_UNROLL for (int x = 0; x < 3; ++x) {
      __m256i g[3];
      ULP_UNROLL for (int y = 0; y < 3; ++y) {
        g[y] = load(raw + (3 * y + x) * raw_tap);
        if constexpr (bipolar) g[y] = add(add(g[y], g[y]), _mm256_set1_epi8(1));  // 0 and -1 stand for +1 and -1
      }
      __m256i column[4];
      grow(g[0], g[1], g[2], column);
      ULP_UNROLL for (int y = 0; y < 4; ++y) rows[y][x] = column[y];
    }
    ULP_UNROLL for (int y = 0; y < 4; ++y) {
      __m256i parts[4];
      grow(rows[y][0], rows[y][1], rows[y][2], parts);
      ULP_UNROLL for (int x = 0; x < 4; ++x) store(u + (4 * y + x) * u_part, parts[x]);
    }
  }
}

void transform_weights(const uint8_t* raw, int64_t raw_tap, int64_t vectors, int slope, uint8_t* u, int64_t u_part) {
  if (slope == 2) return transform_vectors<true>(raw, raw_tap, vectors, u, u_part);
  transform_vectors<false>(raw, raw_tap, vectors, u, u_part);
}

template <int tiles, int units>
void multiply_tile(const uint8_t* v, int64_t v_tile, const uint8_t* u, int64_t steps, int64_t flush, int32_t* out, int64_t ld) {
  const uint8_t* a[tiles];
  ULP_UNROLL for (int r = 0; r < tiles; ++r) a[r] = v + r * v_tile;
  __m256i acc[tiles][units];
  Piece piece{0, steps < flush ? steps : flush};
  multiply<Mul8>(a, u, &piece, 1, acc);
  ULP_UNROLL for (int r = 0; r < tiles; ++r) {
    ULP_UNROLL for (int n = 0; n < units; ++n) { store(reinterpret_cast<uint8_t*>(out + r * ld + n * kUnitCols), Mul8::widen(acc[r][n])); }
  }
  for (int64_t left = steps - piece.steps; left > 0; left -= piece.steps) {
    piece.a += 4 * piece.steps;
    piece.steps = left < flush ? left : flush;
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
void multiply_tiles(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int64_t steps, int64_t flush, int32_t* out,
                    int64_t ld) {
  for (; tiles > 4 || tiles == 3; tiles -= 3, v += 3 * v_tile, out += 3 * ld) multiply_tile<3, units>(v, v_tile, u, steps, flush, out, ld);
  // Two and two rather than three and one.
  for (; tiles >= 2; tiles -= 2, v += 2 * v_tile, out += 2 * ld) multiply_tile<2, units>(v, v_tile, u, steps, flush, out, ld);
  if (tiles == 1) multiply_tile<1, units>(v, v_tile, u, steps, flush, out, ld);
}

void multiply_part(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int units, int64_t steps, int64_t flush, int32_t* out,
                   int64_t ld) {
  switch (units) {
    case 1:
      return multiply_tiles<1>(v, v_tile, tiles, u, steps, flush, out, ld);
    case 2:
      return multiply_tiles<2>(v, v_tile, tiles, u, steps, flush, out, ld);
    case 3:
      return multiply_tiles<3>(v, v_tile, tiles, u, steps, flush, out, ld);
    default:
      return multiply_tiles<4>(v, v_tile, tiles, u, steps, flush, out, ld);
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

constexpr WinogradKernels kKernels{transform_input, transform_weights, multiply_part, transform_output};

}  // namespace

namespace winograd_avx2 {
const WinogradKernels& kernels();
const WinogradKernels& kernels() { return kKernels; }
}  // namespace winograd_avx2

}  // namespace ulp
