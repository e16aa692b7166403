// Planes of codes with NEON, for tile_bitserial.h.
#pragma once

#include "bitpacked_neon.h"

namespace ulp {
namespace {

uint32_t plane_word(const uint8_t* p, int plane) {
  const Vec codes = load(p);
  const int8x16_t lane = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const uint8x16_t mask = vdupq_n_u8(static_cast<uint8_t>(1 << plane));
  const uint8x16_t lo = vshlq_u8(vandq_u8(codes.lo, mask), vsubq_s8(lane, vdupq_n_s8(static_cast<int8_t>(plane))));
  const uint8x16_t hi = vshlq_u8(vandq_u8(codes.hi, mask), vsubq_s8(lane, vdupq_n_s8(static_cast<int8_t>(plane - 4))));
  return vaddvq_u32(vreinterpretq_u32_u8(vorrq_u8(lo, hi)));  // lanes have no bit in common
}

}  // namespace
}  // namespace ulp

#include "tile_bitserial.h"
