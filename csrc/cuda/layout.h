// How weights b (K x N, 1 to 8 bits) lie in device memory: bitpacked, bits / 8 bytes each, in the order in which the lanes of a warp use
// them.
//
// A *strip* is 16 columns of b (output channels), a *block* 128 rows (k). Within a strip and a block each of the 32 lanes has 64 weights,
// exactly those of the A fragments of four mma.m16n8k32 (= the 16 rows that a warp owns of wgmma m64nNk32). With lane = 4 g + t:
//
//     step s (0..3)  register i (0..3)  byte j (0..3)   ->   fragment row g + 8 (i & 1),   k = 32 s + 16 (i >> 1) + 4 t + j
//     fragment row r (0..15)                            ->   channel 2 (r % 8) + r / 8 of the strip
//
// so that a lane's two rows of a result fragment, g and g + 8, are neighbouring channels 2 g and 2 g + 1: results are stored in pairs.
//
// The bits of a weight are divided, from the top, into a plane of 4 bits (b = 4 ... 7), one of 2 (b & 2) and one of 1 (b & 1); b = 8 is
// whole bytes. A lane's words, and the bits of byte j of each:
//
//     4-bit plane   8 words [s][h]   registers h (low nibble) and h + 2 (high nibble) of step s
//     2-bit plane   4 words [s]      registers 0, 1, 2, 3 of step s, from the low end
//     1-bit plane   2 words [s / 2]  bit 2 (s % 2) + (i & 1) + 4 (i >> 1)
//     8 bits       16 words [s][i]
//
// A word of the 4-bit plane is also a register of the 4-bit tensor cores, whose fragments have the same places with eight nibbles instead
// of four bytes; activations are then interleaved in the same way. In memory, the 16-byte pieces (1-bit plane: 8-byte) of all lanes follow
// one another, so that a warp reads 512 (256) consecutive bytes at a time:
//
//     [panel of 8 strips][block][strip of the panel][plane][16-byte piece][lane]
//
// K is padded to whole blocks with zeros (1-bit bipolar: with +1, which the epilogue corrects), N to whole strips; the last panel may have
// fewer strips.
#pragma once

#include <cstdint>

#include "pack/layout.h"

namespace ulp::cuda {

constexpr int kStrip = 16;
constexpr int kBlock = 128;
constexpr int kPanelStrips = 8;
constexpr int kPanel = kStrip * kPanelStrips;

// Bytes of a strip of one block: 16 x 128 weights.
constexpr int strip_bytes(int bits) { return kStrip * kBlock * bits / 8; }

struct Layout {
  int64_t k = 0;
  int64_t n = 0;
  int bits = 0;

  constexpr int64_t blocks() const { return ceil_div(k, kBlock); }
  constexpr int64_t strips() const { return ceil_div(n, kStrip); }
  constexpr int64_t bytes() const { return strips() * blocks() * strip_bytes(bits); }
};

}  // namespace ulp::cuda
