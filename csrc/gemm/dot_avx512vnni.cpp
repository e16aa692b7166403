// dot on AVX-512 VNNI, tile 6 x 64, every pair (dot_x86.h).
//
// Ceiling on Sapphire Rapids: 24 vpdpbusd and 10 loads per step, two of each per cycle: 128 multiply-accumulates per cycle, all of it
// from L1. 8 x 32 reaches 101.
#include "dot_avx512vnni.h"

#include "dot_x86.h"

namespace ulp::dot_avx512vnni {
namespace {

// Past 512 the panel streams from the second-level cache, 21 bytes per cycle, which costs less than to add to the sums of every K-block.
constexpr int64_t kMaxK = 2048;

}  // namespace

extern constexpr BitPairs pairs = kEveryPair;

KernelAtBits bind(int, int b_bits) { return bind_dot<RegisterTile<Dot, 6, 4>>(b_bits, kMaxK); }

}  // namespace ulp::dot_avx512vnni
