// Winograd's F(2x2, 3x3) on integers: 3x3 convolutions of stride 1 with 2.25 times fewer multiplies, exact where operands are narrow.
//
//     Y = A' [ (G g G') .* (B' d B) ] A        d: 4 x 4 inputs, g: 3 x 3 weights, Y: 2 x 2 outputs (Lavin and Gray 2016, section 4.1)
//
//         | 1  0 -1  0 |        | 2  0  0 |        | 1  1  1  0 |
//     B'= | 0  1  1  0 |   2G = | 1  1  1 |   A' = | 0  1 -1 -1 |
//         | 0 -1  1  0 |        | 1 -1  1 |
//         | 0  1  0 -1 |        | 0  0  2 |
//
// With 2G instead of G all is integer and the result 4 Y, so the last step is an exact shift by 2. The 16 elements of the product are 16
// matrix products over the channels. d are codes in [0, q], q = 2^a - 1:
//
//     B' d B   lies in [-2q, 2q], and its element (1, 1), a sum of four, in [0, 4q]: stored as u8 with 2q added, all but (1, 1); a <= 6
//     2G g 2G' row and column 0 and 3 double, 1 and 2 add three: at most {2, 3, 3, 2}^2 * 2^(b-1), 9 * 2^(b-1) <= 127: b <= 4
//
// so vpmaddubsw multiplies them, and products of element (i, j) may gather in 16 bits for floor(32767 / (2 * 4q * {2,3,3,2}_i {2,3,3,2}_j *
// 2^(b-1))) steps whatever the weights: W3A3 16, 24 and 36 steps of four channels, W4A4 3, 5 and 8; W4A5 and W3A6 still 1 or more,
// W4A6 none. But the weights are known before the first image comes. The transformed inputs lie in [0, 4q], so a sum of 16 bits lies
// between -4q times the sum of |w| over the negative weights of its lane and 4q times that over the positive ones: runs are as long as the
// largest of these sums allows (largest_sum), which for real weights is several times longer. What the added 2q contributes, and the code
// of zero, is a constant of the column and of the pixel's place in its tile.
#pragma once

#include <cstdint>

#include "../gemm/kernel.h"

namespace ulp {

inline constexpr int kWinogradParts = 16;  // elements of a transformed tile

// Tiles are 4 x 4 inputs, 2 apart; V, U and M are the transformed inputs and weights and their products, [part][...].
struct WinogradKernels {
  // Tiles along a row from the image's pixel at `a` on; 31 bytes behind the channels of each pixel are readable.
  // v + part * v_part + tile * v_tile + channel; channels are written to the next multiple of 32.
  void (*transform_input)(const uint8_t* a, int64_t row, int64_t pixel, int64_t tiles, int64_t channels, int added, uint8_t* v,
                          int64_t v_part, int64_t v_tile);
  // Weights of up to 4 bits as signed bytes, code - 2^(b - 1), in the order of a bitpacked panel's vectors: | step 0: unit 0 .. 3 | step 1
  // ..
  void (*expand_raw)(const BitpackedSlice& slice, uint8_t* raw);
  // Such panels, tap t at raw + t * raw_tap, to u + part * u_part; `vectors` of 32 bytes per tap.
  // bipolar: weights of -1 and +1 where the panel holds -1 and 0.
  void (*transform_weights)(const uint8_t* raw, int64_t raw_tap, int64_t vectors, bool bipolar, uint8_t* u, int64_t u_part);
  // The same from the bitpacked data of all columns in the slice, where channels are `blocks` times 32.
  void (*expand)(const BitpackedSlice& slice, int64_t blocks, bool bipolar, uint8_t* u, int64_t u_part);
  // nullptr where products add up in 32 bits, for any number of steps. Else of a part's lanes of two weights per step, the largest sum in
  // any run of the positive weights, or of |w| of the negative ones. Runs are of `run` steps, from step 0 on.
  int64_t (*largest_sum)(const uint8_t* u, int units, int64_t steps, int64_t run);
  // One part, some tiles, 8 * units columns: out[tile * ld + column] = sum over 4 * steps channels, of which `spill_every` may add up in 16
  // bits.
  void (*multiply)(const uint8_t* v, int64_t v_tile, int64_t tiles, const uint8_t* u, int units, int64_t steps, int64_t spill_every,
                   int32_t* out, int64_t ld);
  // One tile: m + part * m_part + column to the 2 x 2 pixels at out, (row, pixel) elements apart: (A' m A + constants[pixel]) >> 2.
  // constants: 4 x constants_ld.
  void (*transform_output)(const int32_t* m, int64_t m_part, int64_t columns, const int32_t* constants, int64_t constants_ld, int32_t* out,
                           int64_t row, int64_t pixel);
  // Tiles that share each part's weights on their way through the first-level cache.
  int64_t group_tiles;
};

}  // namespace ulp
