// The bitpacked layout with NEON: a vector of the layout is two registers. For kernel files of ARM only.
#pragma once

#include <arm_neon.h>

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

struct Vec {
  uint8x16_t lo;
  uint8x16_t hi;
};

inline Vec load(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
inline void store(uint8_t* p, Vec v) {
  vst1q_u8(p, v.lo);
  vst1q_u8(p + 16, v.hi);
}

using Units = const uint8_t*;
constexpr int kVecUnits = 1;
inline Vec stored(Units unit, int i) { return load(unit + i * kVector); }
inline Units units_of(const BitpackedSlice& s, int64_t kb, int u) { return bitpacked_unit(s, kb, u); }
inline void store_units(uint8_t* p, Vec v, int) { store(p, v); }

inline Vec zero() { return {vdupq_n_u8(0), vdupq_n_u8(0)}; }

// f of both halves.
template <class F>
ULP_INLINE Vec halves(Vec x, F f) {
  return {f(x.lo), f(x.hi)};
}
template <class F>
ULP_INLINE Vec halves(Vec x, Vec y, F f) {
  return {f(x.lo, y.lo), f(x.hi, y.hi)};
}

// Four bytes in every 32-bit lane of one register: four k of a row, or what a kernel has made of them. In assembly because compilers make
// two instructions of it, a load at an offset and a dup.
inline uint8x16_t broadcast4(const uint8_t* p) {
  struct Four {
    uint8_t bytes[4];
  };
  uint8x16_t v;
  __asm__("ld1r {%0.4s}, %1" : "=w"(v) : "Q"(*reinterpret_cast<const Four*>(p)));
  return v;
}

// Byte-wise (x >> shift) & mask.
template <int shift>
inline Vec field(Vec x, int mask) {
  return halves(x, [mask](uint8x16_t v) {
    if constexpr (shift > 0) v = vshrq_n_u8(v, shift);
    return mask == 255 >> shift ? v : vandq_u8(v, vdupq_n_u8(static_cast<uint8_t>(mask)));
  });
}

// Byte-wise x << shift, or x >> -shift, masked.
template <int shift>
inline Vec moved(Vec x, int mask) {
  if constexpr (shift <= 0) {
    return field<-shift>(x, mask);
  } else {
    return halves(x, [mask](uint8x16_t v) { return vandq_u8(vshlq_n_u8(v, shift), vdupq_n_u8(static_cast<uint8_t>(mask))); });
  }
}

inline Vec either(Vec x, Vec y) { return halves(x, y, vorrq_u8); }

}  // namespace
}  // namespace ulp

#include "bitpacked.h"

namespace ulp {
namespace {

// Fetches C while the sums are made (bitpacked_avx2.h).
template <int rows, int units>
ULP_INLINE void prefetch_c(const Tile& t, int first_unit) {
  ULP_UNROLL for (int r = 0; r < rows; ++r) {
    const int32_t* c = t.c + r * t.ldc + first_unit * kUnitCols;
    ULP_UNROLL for (int i = 0; i < units * kUnitCols; i += 16) __builtin_prefetch(c + i, 1);
  }
}

ULP_INLINE Vec as_vec(int32x4_t lo, int32x4_t hi) { return {vreinterpretq_u8_s32(lo), vreinterpretq_u8_s32(hi)}; }

// 8 sums of int32.
inline Vec load_sums(const int32_t* p) { return as_vec(vld1q_s32(p), vld1q_s32(p + 4)); }
inline void store_sums(int32_t* p, Vec v) {
  vst1q_s32(p, vreinterpretq_s32_u8(v.lo));
  vst1q_s32(p + 4, vreinterpretq_s32_u8(v.hi));
}
inline Vec load_columns(const int32_t* p, int) { return load_sums(p); }
inline void store_columns(int32_t* p, Vec v, int) { store_sums(p, v); }
inline Vec add_sums(Vec x, Vec y) {
  return halves(
      x, y, [](uint8x16_t v, uint8x16_t w) { return vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(v), vreinterpretq_s32_u8(w))); });
}
inline Vec same_sums(int32_t value) { return as_vec(vdupq_n_s32(value), vdupq_n_s32(value)); }
inline Vec shift_sums(Vec x, int shift) {
  return halves(x, [by = vdupq_n_s32(shift)](uint8x16_t v) { return vreinterpretq_u8_s32(vshlq_s32(vreinterpretq_s32_u8(v), by)); });
}

// What a row's results start from besides the columns' terms (or the old values): read before the first store to C, which might alias it.
ULP_INLINE Vec row_term(const Tile& t, int row) { return same_sums(t.accumulate || !t.row ? 0 : t.row[row]); }

// Subtracts `centre` from rows x k32 codes.
inline void centre_rows(const uint8_t* codes, int64_t stride, int rows, int64_t k32, uint8_t* out, int64_t out_stride, int centre) {
  const uint8x16_t c = vdupq_n_u8(static_cast<uint8_t>(centre));
  for (int r = 0; r < rows; ++r, codes += stride, out += out_stride) {
    for (int64_t k = 0; k < k32; k += kUnitK) store(out + k, halves(load(codes + k), [c](uint8x16_t v) { return vsubq_u8(v, c); }));
  }
}

}  // namespace
}  // namespace ulp

#include "tile_store.h"
