// Ops::finish on AVX-512.
//
// Ceiling on Sapphire Rapids, codes from a scale and a bias per channel: five operations on floats per vector, and nine of packing and
// clamping per four; two in a cycle: 15 cycles for 64 codes.
#include "ops_avx512.h"

#include "finish_x86.h"

namespace ulp::ops_avx512 {

void finish(const Finish& f) { finish_targets(f, finish_thresholds); }

}  // namespace ulp::ops_avx512
