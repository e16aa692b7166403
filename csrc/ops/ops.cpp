#include "ops_parts.h"

namespace ulp {

const Ops& ops(Isa isa) {
#if defined(ULP_X86)
  if (isa >= Isa::avx2) return avx2_ops();
#elif defined(ULP_ARM64)
  if (isa >= Isa::neon) return neon_ops();
#endif
  static_cast<void>(isa);
  return scalar_ops();
}

}  // namespace ulp
