// grouped on ARM: what its instruction sets share. Sums are those of signed bytes: codes of up to 7 bits, of 8 bits less 128, or a table's.
// For kernel files of ARM only.
#pragma once

#include "bitpacked_neon.h"
#include "grouped_kernel.h"

namespace ulp {
namespace {

using Table = uint8x16_t;
ULP_INLINE Table table_of(const int8_t* bytes) { return vreinterpretq_u8_s8(vld1q_s8(bytes)); }
ULP_INLINE Vec look_up(Table table, Vec codes) { return {vqtbl1q_u8(table, codes.lo), vqtbl1q_u8(table, codes.hi)}; }

// Codes of `bits` bits as signed bytes.
template <int bits>
ULP_INLINE int8x16_t as_signed(uint8x16_t codes) {
  return vreinterpretq_s8_u8(bits == 8 ? veorq_u8(codes, vdupq_n_u8(128)) : codes);
}

ULP_INLINE void add_scaled4(uint8x16_t sums, const RowGroup& of, const float* scales, const float* zeros, float* c) {
  float32x4_t x = vcvtq_f32_s32(vaddq_s32(vreinterpretq_s32_u8(sums), vdupq_n_s32(of.start)));
  if (zeros) x = vfmsq_f32(x, vld1q_f32(zeros), vdupq_n_f32(of.sum));
  vst1q_f32(c, vfmaq_f32(vld1q_f32(c), x, vmulq_f32(vld1q_f32(scales), vdupq_n_f32(of.scale))));
}

ULP_INLINE void add_scaled(Vec sums, const RowGroup& of, const float* scales, const float* zeros, float* c) {
  add_scaled4(sums.lo, of, scales, zeros, c);
  add_scaled4(sums.hi, of, scales + 4, zeros ? zeros + 4 : nullptr, c + 4);
}

}  // namespace
}  // namespace ulp

#include "tile_grouped.h"

namespace ulp {
namespace {

ULP_INLINE int signed_bias(int bits, int planes) { return planes == 0 && bits == 8 ? -128 : 0; }

}  // namespace
}  // namespace ulp
