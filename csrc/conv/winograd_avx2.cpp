// Winograd's transforms and products with AVX2.
#include "../gemm/multiply_avx2.h"

namespace ulp {
namespace {

inline Vec add(Vec a, Vec b) { return _mm256_add_epi8(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_epi8(a, b); }
inline Vec same_bytes(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
inline Vec load_part(const uint8_t* p, int) { return load(p); }
inline void store_part(uint8_t* p, Vec x, int) { store(p, x); }
inline Vec subtract_sums(Vec x, Vec y) { return _mm256_sub_epi32(x, y); }
inline Vec quarter(Vec x) { return _mm256_srai_epi32(x, 2); }

}  // namespace
}  // namespace ulp

#include "winograd_x86.h"

namespace ulp {
namespace {

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

// As the notes say: bench/NOTES.md, "Convolutions".
constexpr int64_t kGroupTiles = 9;

constexpr WinogradKernels kKernels{transform_input, expand_raw,    transform_weights, expand,
                                   largest_sum,     multiply_part, transform_output,  kGroupTiles};

}  // namespace

namespace winograd_avx2 {
const WinogradKernels& kernels();
const WinogradKernels& kernels() { return kKernels; }
}  // namespace winograd_avx2

}  // namespace ulp
