// The bitpacked layout: how b-bit weights lie in memory, b bits each. One layout for every kernel, so that a PackedMatrix runs on any of
// them, on any CPU, and can be saved and sent; a kernel expands what it needs of it, panel by panel, into cache.
//
//   B (K x N) is cut into panels of 32 columns; a panel into K-blocks of 32; a K-block into units of 8 columns:
//
//     panel 0: | kb 0: unit c0 c1 c2 c3 | kb 1: unit c0 c1 c2 c3 | ...        the last panel has as many units as it needs
//
//   A unit holds 8 columns x 32 k = 256 codes: eight *vectors* v0..v7 of 32 bytes, vector j for k = 4j .. 4j+3,
//   byte 4*c + i of it for column c and k = 4j + i. This is what vpmaddubsw / sdot / vpdpbusd eat:
//
//     v_j:  | c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c7: k0 k1 k2 k3 |
//
//   Stored are b vectors X_0..X_{b-1} of 32 bytes instead of 8. Every field below is byte-wise, so that decoding is a shift and a mask:
//
//     b = 1   X0 bit j               = v_j
//     b = 2   X0, X1 bits 2f, 2f+1   = v_f, v_{4+f}                                  f = 0..3
//     b = 3   X_i bits 0-2           = v_i,  bits 3-5 = v_{3+i}                      i = 0..2
//             X0 bits 6-7 | X2 bit 6 = v_6 (low two | high), X1 bits 6-7 | X2 bit 7 = v_7
//     b = 4   X_i low nibble         = v_{2i},  high nibble = v_{2i+1}               i = 0..3
//     b = 5   X0..X3 as b = 4 (bits 0-3 of v), X4 as b = 1 (bit 4)
//     b = 6   X0..X3 as b = 4 (bits 0-3 of v), X4, X5 as b = 2 (bits 4-5)
//     b = 7   X0..X3 as b = 4, X4, X5 as b = 2, X6 as b = 1 (bit 6)
//     b = 8   X_j                    = v_j
//
//   Columns past N and rows past K hold code 0. No kernel relies on it: a packed A is zero there in the kernel's own terms.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulp {

inline constexpr int kVector = 32;   // bytes in one vector of the layout
inline constexpr int kUnitCols = 8;  // columns in a unit
inline constexpr int kUnitK = 32;    // k in a unit
inline constexpr int kUnitCodes = kUnitCols * kUnitK;
inline constexpr int kPanelCols = 32;  // columns in a panel
inline constexpr int kPanelUnits = kPanelCols / kUnitCols;

static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct BitpackedLayout {
  int64_t k = 0;
  int64_t n = 0;
  int bits = 0;

  constexpr int64_t k_blocks() const { return ceil_div(k, kUnitK); }
  constexpr int64_t unit_bytes() const { return int64_t{kVector} * bits; }
  constexpr int64_t units() const { return ceil_div(n, kUnitCols); }  // over all columns
  constexpr int64_t panels() const { return ceil_div(n, kPanelCols); }
  constexpr int64_t nbytes() const { return units() * k_blocks() * unit_bytes(); }

  // Units in one K-block of panel p: 4, or what the last panel needs.
  constexpr int panel_units(int64_t p) const {
    const int64_t left = units() - p * kPanelUnits;
    return static_cast<int>(left < kPanelUnits ? left : kPanelUnits);
  }
  constexpr int64_t unit_offset(int64_t p, int64_t k_block, int unit) const {
    return (p * kPanelUnits * k_blocks() + k_block * panel_units(p) + unit) * unit_bytes();
  }
};

}  // namespace ulp
