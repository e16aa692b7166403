// RowOps in portable C++.
#include "vector16_portable.h"
// The vector comes first: the loops are written in it.
#include "ops_parts.h"
#include "row_loops.h"

namespace ulp {

const RowOps& scalar_row_ops() { return kRowOps; }

}  // namespace ulp
