// The NEON table of ops.h: a finish of its own; the others are the loops of the portable table, which compilers turn into NEON.
#include "ops_parts.h"

namespace ulp {

const Ops& neon_ops() {
  static const Ops table = [] {
    Ops all = scalar_ops();
    all.finish = ops_neon::finish;
    return all;
  }();
  return table;
}

}  // namespace ulp
