// Ops::combine on AVX2: 32 channels at a time.
#include "ops_avx2.h"

#include "combine_x86.h"

namespace ulp::ops_avx2 {

void combine(const Combination& f) { combine_run(f); }

}  // namespace ulp::ops_avx2
