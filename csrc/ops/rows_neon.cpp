// RowOps on NEON: portable loops, which compilers turn into its vectors.
#include "vector16_portable.h"
// The vector comes first: the loops are written in it.
#include "ops_parts.h"
#include "row_loops.h"

namespace ulp {

const RowOps& neon_row_ops() { return kRowOps; }

}  // namespace ulp
