// The NEON table of ops.h: the loops of the portable table, which compilers turn into NEON.
#include "ops_parts.h"

namespace ulp {

const Ops& neon_ops() { return scalar_ops(); }

}  // namespace ulp
