// Winograd's transforms and products with AVX-512 VNNI: vpdpbusd adds to 32 bits, so there are no runs.
//
// Products: tiles of up to 12 x 32, of which a step is 24 vpdpbusd and 14 loads: 128 multiply-accumulates per cycle on Sapphire Rapids,
// which stand for 288 of the convolution.
#include "../gemm/dot_avx512vnni.h"
#include "../gemm/panel_codes.h"

namespace ulp {
namespace {

inline Vec add(Vec a, Vec b) { return _mm512_add_epi8(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_epi8(a, b); }
inline Vec same_bytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
inline Vec load_part(const uint8_t* p, int vectors) { return _mm512_maskz_loadu_epi32(lanes_of(vectors), p); }
inline void store_part(uint8_t* p, Vec x, int vectors) { store_units(p, x, vectors); }
inline Vec subtract_sums(Vec x, Vec y) { return _mm512_sub_epi32(x, y); }
inline Vec quarter(Vec x) { return _mm512_srai_epi32(x, 2); }

}  // namespace
}  // namespace ulp

#include "winograd_x86.h"

namespace ulp {
namespace {

constexpr int kMaxTiles = 12;

// Rows of V lie v_tile apart: three are addressed from one pointer, or pointers would not fit the registers.
template <int tiles, int vecs>
void multiply_tile(const uint8_t* v, int64_t v_tile, const uint8_t* u, int64_t u_step, int64_t steps, int units, int32_t* out, int64_t ld) {
  constexpr int kBases = (tiles + 2) / 3;
  const uint8_t* a[kBases];
  ULP_UNROLL for (int i = 0; i < kBases; ++i) a[i] = v + 3 * i * v_tile;
  Vec acc[tiles][vecs];
  ULP_UNROLL for (int r = 0; r < tiles; ++r) { ULP_UNROLL for (int n = 0; n < vecs; ++n) acc[r][n] = zero(); }
  for (const uint8_t* end = u + steps * u_step; u != end; u += u_step) {
    Vec y[vecs];
    ULP_UNROLL for (int n = 0; n < vecs; ++n) y[n] = load(u + n * kVecBytes);
    ULP_UNROLL for (int r = 0; r < tiles; ++r) {
      const Vec x = broadcast4(a[r / 3] + r % 3 * v_tile);
      ULP_UNROLL for (int n = 0; n < vecs; ++n) dot_add(acc[r][n], x, y[n]);
    }
    ULP_UNROLL for (int i = 0; i < kBases; ++i) a[i] += 4;
  }
  ULP_UNROLL for (int r = 0; r < tiles; ++r) {
    ULP_UNROLL for (int n = 0; n < vecs; ++n) store_columns(out + r * ld + n * kVecCols, acc[r][n], units - n * kVecUnits);
  }
}

// `count` tiles, at most `tiles`.
template <int tiles, int vecs>
void multiply_tiles(int64_t count, const uint8_t* v, int64_t v_tile, const uint8_t* u, int64_t u_step, int64_t steps, int units,
                    int32_t* out, int64_t ld) {
  if constexpr (tiles > 1) {
    if (count < tiles) return multiply_tiles<tiles - 1, vecs>(count, v, v_tile, u, u_step, steps, units, out, ld);
  }
  multiply_tile<tiles, vecs>(v, v_tile, u, u_step, steps, units, out, ld);
}

void multiply_part(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int units, int64_t steps, int64_t, int32_t* out,
                   int64_t ld) {
  const int64_t u_step = int64_t{units} * kVector;
  for (; tiles > 0; tiles -= kMaxTiles, v += kMaxTiles * v_tile, out += kMaxTiles * ld) {
    if (units > kVecUnits) {
      multiply_tiles<kMaxTiles, 2>(tiles, v, v_tile, u, u_step, steps, units, out, ld);
    } else {
      multiply_tiles<kMaxTiles, 1>(tiles, v, v_tile, u, u_step, steps, units, out, ld);
    }
  }
}

constexpr WinogradKernels kKernels{transform_input, expand_raw,    transform_weights, expand,
                                   nullptr,         multiply_part, transform_output,  kMaxTiles};

}  // namespace

namespace winograd_avx512vnni {
const WinogradKernels& kernels();
const WinogradKernels& kernels() { return kKernels; }
}  // namespace winograd_avx512vnni

}  // namespace ulp
