// RowOps on AVX2.
#include "vector16_avx2.h"
// The vector comes first: the loops are written in it.
#include <cmath>

#include "ops_parts.h"
#include "row_loops.h"

namespace ulp {

const RowOps& avx2_row_ops() { return kRowOps; }

}  // namespace ulp
