// Ops::finish on AVX2.
#include "ops_avx2.h"

#include "finish_x86.h"

namespace ulp::ops_avx2 {

void finish(const Finish& f) { finish_targets(f, finish_thresholds); }

}  // namespace ulp::ops_avx2
