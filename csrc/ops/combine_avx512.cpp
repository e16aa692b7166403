// Ops::combine on AVX-512: 64 channels at a time.
#include "ops_avx512.h"

#include "combine_x86.h"

namespace ulp::ops_avx512 {

void combine(const Combination& f) { combine_run(f); }

}  // namespace ulp::ops_avx512
