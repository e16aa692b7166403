// Panels of bytes in steps of 4 k, for the kernels that multiply on x86:  | step 0: unit 0, 1 .. | step 1: ...   32 bytes per unit, byte
// 4 c + i for column c and k = 4 step + i. After bitpacked_<isa>.h.
#pragma once

#include "kernel.h"
#include "kernel_util.h"

namespace ulp {
namespace {

// code - centre.
template <int bits, int centre>
void expand_codes(const BitpackedSlice& s, uint8_t* panel) {
  const int64_t stride = s.units * kVector, k_blocks = s.k_blocks;  // copies that no store can alias
  const int all = s.units;
  for (int first = 0; first < all; first += kPanelUnits) {
    const PanelUnits panel_units(s, first);
    const uint8_t* from = panel_units.at;
    uint8_t* to = panel + first * kVector;
    for (int64_t kb = 0; kb < k_blocks; ++kb, from += panel_units.step, to += 8 * stride) {
      for (int u = 0; u < panel_units.count; u += kVecUnits) {
        Vec v[8];
        decode<bits>(units_at(from, bits * kVector, u, panel_units.count), v);
        ULP_UNROLL for (int j = 0; j < 8; ++j) {
          store_units(to + j * stride + u * kVector, centre ? subtract_bytes(v[j], centre) : v[j], panel_units.count - u);
        }
      }
    }
  }
}

constexpr int middle(int bits) { return 1 << (bits - 1); }

// As signed bytes.
inline auto expand_signed_codes(int bits) {
  return for_bits(bits, [](auto b) { return &expand_codes<decltype(b)::value, middle(decltype(b)::value)>; });
}

inline auto expand_unsigned_codes(int bits) {
  return for_bits(bits, [](auto b) { return &expand_codes<decltype(b)::value, 0>; });
}

}  // namespace
}  // namespace ulp
