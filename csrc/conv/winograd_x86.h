// Winograd's transforms on x86, for vectors of either width; the algebra and its bounds are in winograd_kernels.h. After
// bitpacked_<isa>.h, panel_codes.h, and, of the file that includes it:
//
//   add, sub                          of bytes
//   same_bytes(x)
//   load_part(p, vectors)             vectors of 32 bytes, 1 .. kVecUnits, from memory, and to it
//   store_part(p, x, vectors)
//   subtract_sums, quarter            of sums of 32 bits: x - y, x >> 2
#pragma once

#include "winograd_kernels.h"

namespace ulp {
namespace {

// Of so many bytes, those that a Vec takes, in vectors of 32.
inline int vectors_of(int64_t bytes) { return bytes > kVecBytes - kVector ? kVecUnits : 1; }

void transform_input(const uint8_t* a, int64_t row, int64_t pixel, int64_t tiles, int64_t channels, int added, uint8_t* v, int64_t v_part,
                     int64_t v_tile) {
  const Vec offset = same_bytes(added);
  for (int64_t t = 0; t < tiles; ++t, a += 2 * pixel, v += v_tile) {
    for (int64_t c = 0; c < channels; c += kVecBytes) {
      const int vectors = vectors_of(channels - c);
      Vec r[4][4];  // B' d: modulo 256, as are all sums until the offset makes them unsigned
      ULP_UNROLL for (int x = 0; x < 4; ++x) {
        const uint8_t* d = a + x * pixel + c;
        const Vec d0 = load_part(d, vectors), d1 = load_part(d + row, vectors);
        const Vec d2 = load_part(d + 2 * row, vectors), d3 = load_part(d + 3 * row, vectors);
        r[0][x] = sub(d0, d2);
        r[1][x] = add(d1, d2);
        r[2][x] = sub(d2, d1);
        r[3][x] = sub(d1, d3);
      }
      ULP_UNROLL for (int y = 0; y < 4; ++y) {
        uint8_t* to = v + 4 * y * v_part + c;
        const Vec second = add(r[y][1], r[y][2]);
        store_part(to, add(sub(r[y][0], r[y][2]), offset), vectors);
        store_part(to + v_part, y == 1 ? second : add(second, offset), vectors);
        store_part(to + 2 * v_part, add(sub(r[y][2], r[y][1]), offset), vectors);
        store_part(to + 3 * v_part, add(sub(r[y][1], r[y][3]), offset), vectors);
      }
    }
  }
}

// (x, y, z) -> 2G (x, y, z)
ULP_INLINE void grow(const Vec& x, const Vec& y, const Vec& z, Vec (&out)[4]) {
  const Vec ends = add(x, z);
  out[0] = add(x, x);
  out[1] = add(ends, y);
  out[2] = sub(ends, y);
  out[3] = add(z, z);
}

// The 16 parts of one vector of weights; tap(Int<t>) gives its values at tap t.
template <class Tap>
ULP_INLINE void transform_taps(Tap tap, int vectors, uint8_t* u, int64_t u_part) {
  Vec rows[4][3];
  unrolled<3>([&](auto x) {
    Vec column[4];
    grow(tap(x), tap(Int<x.value + 3>{}), tap(Int<x.value + 6>{}), column);
    ULP_UNROLL for (int y = 0; y < 4; ++y) rows[y][x.value] = column[y];
  });
  ULP_UNROLL for (int y = 0; y < 4; ++y) {
    Vec parts[4];
    grow(rows[y][0], rows[y][1], rows[y][2], parts);
    ULP_UNROLL for (int x = 0; x < 4; ++x) store_part(u + (4 * y + x) * u_part, parts[x], vectors);
  }
}

// Bipolar weights: -1 and 0 stand for -1 and +1.
template <bool bipolar>
ULP_INLINE Vec weights_of(Vec x) {
  return bipolar ? add(add(x, x), same_bytes(1)) : x;
}

template <bool bipolar>
void transform_vectors(const uint8_t* raw, int64_t raw_tap, int64_t vectors, uint8_t* u, int64_t u_part) {
  for (int64_t i = 0; i < vectors; i += kVecUnits, raw += kVecBytes, u += kVecBytes) {
    const int left = vectors_of((vectors - i) * kVector);
    transform_taps([&](auto t) { return weights_of<bipolar>(load_part(raw + t.value * raw_tap, left)); }, left, u, u_part);
  }
}

void transform_weights(const uint8_t* raw, int64_t raw_tap, int64_t vectors, bool bipolar, uint8_t* u, int64_t u_part) {
  if (bipolar) return transform_vectors<true>(raw, raw_tap, vectors, u, u_part);
  transform_vectors<false>(raw, raw_tap, vectors, u, u_part);
}

void expand_raw(const BitpackedSlice& s, uint8_t* raw) { expand_signed_codes(static_cast<int>(s.unit_bytes / kVector))(s, raw); }

template <int bits, bool bipolar>
void expand_blocks(const BitpackedSlice& s, int64_t blocks, uint8_t* u, int64_t u_part) {
  const Vec centre = same_bytes(1 << (bits - 1));
  for (int64_t b = 0; b < blocks; ++b) {
    for (int n = 0; n < s.units; n += kVecUnits) {
      const int left = vectors_of(int64_t{s.units - n} * kVector);
      Units taps[9];
      ULP_UNROLL for (int t = 0; t < 9; ++t) taps[t] = units_of(s, t * blocks + b, n);
      unrolled<8>([&](auto j) {
        const auto tap = [&](auto t) { return weights_of<bipolar>(sub(code_vector<bits, j.value>(taps[t.value]), centre)); };
        transform_taps(tap, left, u + ((8 * b + j.value) * s.units + n) * kVector, u_part);
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

void transform_output(const int32_t* m, int64_t m_part, int64_t columns, const int32_t* constants, int64_t constants_ld, int32_t* out,
                      int64_t row, int64_t pixel) {
  for (int64_t n = 0; n < columns; n += kVecCols) {
    const int units = vectors_of((columns - n) / kUnitCols * kVector);
    Vec upper[4], lower[4];  // A' m
    ULP_UNROLL for (int x = 0; x < 4; ++x) {
      const int32_t* at = m + x * m_part + n;
      const Vec m1 = load_columns(at + 4 * m_part, units);
      const Vec m2 = load_columns(at + 8 * m_part, units);
      upper[x] = add_sums(add_sums(load_columns(at, units), m1), m2);
      lower[x] = subtract_sums(subtract_sums(m1, m2), load_columns(at + 12 * m_part, units));
    }
    const auto put = [&](int p, int32_t* to, Vec sum) {
      store_columns(to + n, quarter(add_sums(sum, load_columns(constants + p * constants_ld + n, units))), units);
    };
    put(0, out, add_sums(add_sums(upper[0], upper[1]), upper[2]));
    put(1, out + pixel, subtract_sums(subtract_sums(upper[1], upper[2]), upper[3]));
    put(2, out + row, add_sums(add_sums(lower[0], lower[1]), lower[2]));
    put(3, out + row + pixel, subtract_sums(subtract_sums(lower[1], lower[2]), lower[3]));
  }
}

}  // namespace
}  // namespace ulp
