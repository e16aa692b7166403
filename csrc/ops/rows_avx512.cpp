// RowOps on AVX-512.
#include "vector16_avx512.h"
// The vector comes first: the loops are written in it.
#include <cmath>

#include "ops_parts.h"
#include "row_loops.h"

namespace ulp {

const RowOps& avx512_row_ops() { return kRowOps; }

}  // namespace ulp
