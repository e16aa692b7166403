// lut on NEON: tbl, tile 3 x 96 (tile_lut.h).
//
// Ceiling: 18 tbl and 18 add per step for 1152 products at g = 4; 64 per cycle where two of them are issued per cycle (Neoverse N1), 32 on
// a Cortex-A72, whose tbl takes 1.5 cycles; half of that at g = 2.
#include "bitpacked_neon.h"

namespace ulp {
namespace {

// Bytes are masked so that a table beyond the last one is not read if another thread has changed A since it was checked.
template <int a_bits, int g>
void pack_offsets(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const uint8x16_t code = vdupq_n_u8((1 << a_bits) - 1);
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    uint8_t* to = out;
    for (int64_t k = 0; k < k32; k += 16) {
      const uint16x8_t x = vreinterpretq_u16_u8(vandq_u8(vld1q_u8(codes + k), code));
      // Two digits in 16 bits: the upper byte's moves down to its place.
      const uint16x8_t two = vorrq_u16(vandq_u16(x, vdupq_n_u16(0xFF)), vshlq_n_u16(vshrq_n_u16(x, 8), a_bits));
      if constexpr (g == 2) {
        vst1q_u8(to, vreinterpretq_u8_u16(vshlq_n_u16(two, 4)));
        to += 16;
      } else {
        const uint32x4_t y = vreinterpretq_u32_u16(two);
        const uint32x4_t four = vorrq_u32(vandq_u32(y, vdupq_n_u32(0xFFFF)), vshlq_n_u32(vshrq_n_u32(y, 16), 2 * a_bits));
        vst1_u8(to, vreinterpret_u8_u16(vmovn_u32(vshlq_n_u32(four, 4))));
        to += 8;
      }
    }
  }
}

// Entry e of a table is the sum of the activations whose bit is set in e.
void pack_tables(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride) {
  const uint8x16_t entry = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  uint8x16_t has[4];
  ULP_UNROLL for (int i = 0; i < 4; ++i) has[i] = vtstq_u8(entry, vdupq_n_u8(static_cast<uint8_t>(1 << i)));
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += 4) {
      uint8x16_t sum = vandq_u8(vdupq_n_u8(codes[k]), has[0]);
      ULP_UNROLL for (int i = 1; i < 4; ++i) sum = vaddq_u8(sum, vandq_u8(vdupq_n_u8(codes[k + i]), has[i]));
      vst1q_u8(out + 4 * k, sum);
    }
  }
}

// Patterns of one vector of 32 columns and 32 k: the fields of the bitpacked data are taken as they lie, without the eight vectors in
// between.
template <int b_bits>
void expand_vector(const BitpackedSlice& s, int64_t kb, int first_unit, uint8_t* panel, int64_t step_stride) {
  const int8x16_t place =
      b_bits == 1 ? int8x16_t{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3} : int8x16_t{0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2};
  for (int h = 0; h < b_bits; ++h) {
    Vec x[kPanelUnits];
    ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
      x[u] = first_unit + u < s.units ? load(bitpacked_unit(s, kb, first_unit + u) + h * kVector) : zero();
    }
    unrolled<8 / b_bits>([&](auto f) {
      // The codes of a column add up to patterns, side by side: one of its four 1-bit codes, or two of two 2-bit codes each.
      uint8x16_t p[kPanelUnits];
      ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
        const Vec codes = halves(field<f.value * b_bits>(x[u], (1 << b_bits) - 1), [place](uint8x16_t v) { return vshlq_u8(v, place); });
        p[u] = vpaddq_u8(codes.lo, codes.hi);
      }
      if constexpr (b_bits == 1) {
        store(panel, {vpaddq_u8(p[0], p[1]), vpaddq_u8(p[2], p[3])});
        panel += step_stride;
      } else {
        store(panel, {vuzp1q_u8(p[0], p[1]), vuzp1q_u8(p[2], p[3])});
        store(panel + step_stride, {vuzp2q_u8(p[0], p[1]), vuzp2q_u8(p[2], p[3])});
        panel += 2 * step_stride;
      }
    });
  }
}

// acc += table[index]; in assembly, and volatile, for the reason given in mul8_neon.cpp.
ULP_INLINE void lookup_add(Vec& acc, uint8x16_t table, Vec index) {
  uint8x16_t lo, hi;
  __asm__ volatile(
      "tbl %2.16b, {%4.16b}, %5.16b\n\ttbl %3.16b, {%4.16b}, %6.16b\n\t"
      "add %0.16b, %0.16b, %2.16b\n\tadd %1.16b, %1.16b, %3.16b"
      : "+w"(acc.lo), "+w"(acc.hi), "=&w"(lo), "=&w"(hi)
      : "w"(table), "w"(index.lo), "w"(index.hi));
}

template <bool is_indexed>
inline uint8x16_t step_table(const uint8_t* table, const uint8_t* a, int64_t step) {
  if constexpr (is_indexed) {
    uint16_t offset;
    __builtin_memcpy(&offset, a + step * 2, 2);
    return vld1q_u8(table + offset);
  } else {
    return vld1q_u8(a + step * 16);
  }
}

template <bool is_indexed, int rows, int vectors>
ULP_INLINE void look_up(const uint8_t* table, const uint8_t* const (&a)[rows], const uint8_t*& b, const Piece* pieces, int64_t count,
                        Vec (&acc)[rows][vectors]) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) { ULP_UNROLL for (int v = 0; v < vectors; ++v) acc[r][v] = zero(); }
  for (const Piece* piece = pieces; piece != pieces + count; ++piece) {
    for (int64_t i = 0; i < piece->steps; ++i, b += vectors * kVector) {
      uint8x16_t entries[rows];
      ULP_UNROLL for (int r = 0; r < rows; ++r) entries[r] = step_table<is_indexed>(table, a[r] + piece->a, i);
      ULP_UNROLL for (int v = 0; v < vectors; ++v) {
        const Vec index = load(b + v * kVector);
        ULP_UNROLL for (int r = 0; r < rows; ++r) lookup_add(acc[r][v], entries[r], index);
      }
    }
  }
}

struct Wide {
  uint16x8_t units[kPanelUnits];

  ULP_INLINE void clear() { ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) units[u] = vdupq_n_u16(0); }
  ULP_INLINE void set(Vec bytes) {
    clear();
    add(bytes);
  }
  ULP_INLINE void add(Vec bytes) {
    units[0] = vaddw_u8(units[0], vget_low_u8(bytes.lo));
    units[1] = vaddw_high_u8(units[1], bytes.lo);
    units[2] = vaddw_u8(units[2], vget_low_u8(bytes.hi));
    units[3] = vaddw_high_u8(units[3], bytes.hi);
  }
  ULP_INLINE void columns(Vec (&sums)[kPanelUnits]) const {
    ULP_UNROLL for (int u = 0; u < kPanelUnits; ++u) {
      sums[u] = {vreinterpretq_u8_u32(vmovl_u16(vget_low_u16(units[u]))), vreinterpretq_u8_u32(vmovl_high_u16(units[u]))};
    }
  }
};

}  // namespace
}  // namespace ulp

#include "tile_lut.h"

namespace ulp::lut_neon {

extern constexpr BitPairs pairs = pairs_where(supports_pair);

KernelAtBits bind(int a_bits, int b_bits) { return bind_lut(a_bits, b_bits); }

}  // namespace ulp::lut_neon
