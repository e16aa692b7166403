// Ops::combine on AVX2: the compiler's vectors.
#include "combine_loops.h"
#include "ops_parts.h"

namespace ulp::ops_avx2 {

void combine(const Combination& f) { combine_run(f); }

}  // namespace ulp::ops_avx2
