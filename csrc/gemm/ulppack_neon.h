// The lanes of ULPPACK on NEON for tile_ulppack.h: mla on 16- and 32-bit lanes.
#pragma once

#include "bitpacked_neon.h"

namespace ulp {
namespace {

inline Vec swap_pairs(Vec codes) { return halves(codes, vrev16q_u8); }

template <int d, bool swapped>
Vec lanes(Vec codes, int first) {
  const int32x4_t down = vdupq_n_s32(-8 * first);
  return halves(codes, [down](uint8x16_t v) {
    const uint32x4_t two = vshlq_u32(vreinterpretq_u32_u8(v), down);
    const uint32x4_t x = vandq_u32(two, vdupq_n_u32(0xFF));
    const uint32x4_t y = vandq_u32(vshrq_n_u32(two, 8), vdupq_n_u32(0xFF));
    return vreinterpretq_u8_u32(swapped ? vorrq_u32(y, vshlq_n_u32(x, d)) : vorrq_u32(x, vshlq_n_u32(y, d)));
  });
}

inline void store_in_turn(uint8_t* to, Vec x, Vec y) {
  const auto half = [](uint8_t* out, uint8x16_t v, uint8x16_t w) {
    const uint32x4_t first = vreinterpretq_u32_u8(v), second = vreinterpretq_u32_u8(w);
    store(out, {vreinterpretq_u8_u32(vzip1q_u32(first, second)), vreinterpretq_u8_u32(vzip2q_u32(first, second))});
  };
  half(to, x.lo, y.lo);
  half(to + kVector, x.hi, y.hi);
}

// In assembly, and volatile, for the reason given in mul8_neon.cpp.
struct P1 {
  static constexpr int kStepK = 4;
  static constexpr int kUnrolled = 1;  // more spills sums
  static ULP_INLINE Vec multiply(uint8x16_t a, Vec b) {
    Vec product;
    __asm__ volatile("mul %0.8h, %1.8h, %2.8h" : "=w"(product.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mul %0.8h, %1.8h, %2.8h" : "=w"(product.hi) : "w"(b.hi), "w"(a));
    return product;
  }
  static ULP_INLINE Vec multiply_add(Vec sum, uint8x16_t a, Vec b) {
    __asm__ volatile("mla %0.8h, %1.8h, %2.8h" : "+w"(sum.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mla %0.8h, %1.8h, %2.8h" : "+w"(sum.hi) : "w"(b.hi), "w"(a));
    return sum;
  }
  static ULP_INLINE Vec add(Vec x, Vec y) {
    return halves(
        x, y, [](uint8x16_t v, uint8x16_t w) { return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(v), vreinterpretq_u16_u8(w))); });
  }
  static ULP_INLINE Vec extract(Vec local) {
    return halves(local, [](uint8x16_t v) { return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(v), 8)); });
  }
  static ULP_INLINE Vec columns(Vec sums) {
    return halves(sums, [](uint8x16_t v) { return vreinterpretq_u8_u32(vpaddlq_u16(vreinterpretq_u16_u8(v))); });
  }
};

template <int d>
struct P2 {
  static constexpr int kStepK = 2;
  static constexpr int kUnrolled = 1;
  static ULP_INLINE Vec multiply(uint8x16_t a, Vec b) {
    Vec product;
    __asm__ volatile("mul %0.4s, %1.4s, %2.4s" : "=w"(product.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mul %0.4s, %1.4s, %2.4s" : "=w"(product.hi) : "w"(b.hi), "w"(a));
    return product;
  }
  static ULP_INLINE Vec multiply_add(Vec sum, uint8x16_t a, Vec b) {
    __asm__ volatile("mla %0.4s, %1.4s, %2.4s" : "+w"(sum.lo) : "w"(b.lo), "w"(a));
    __asm__ volatile("mla %0.4s, %1.4s, %2.4s" : "+w"(sum.hi) : "w"(b.hi), "w"(a));
    return sum;
  }
  static ULP_INLINE Vec add(Vec x, Vec y) { return add_sums(x, y); }
  static ULP_INLINE Vec extract(Vec local) {
    return halves(local, [](uint8x16_t v) {
      return vreinterpretq_u8_u32(vandq_u32(vshrq_n_u32(vreinterpretq_u32_u8(v), d), vdupq_n_u32((1 << d) - 1)));
    });
  }
  static ULP_INLINE Vec columns(Vec sums) { return sums; }
};

}  // namespace
}  // namespace ulp

#include "tile_ulppack.h"
