#include "ops_parts.h"

namespace ulp {

#if defined(ULP_X86)
namespace {

const Ops& avx512_ops() {
  static const Ops table = [] {
    Ops all = avx2_ops();
    all.finish = ops_avx512::finish;
    all.window_max = ops_avx512::window_max;
    all.window_sum = ops_avx512::window_sum;
    all.quantize = ops_avx512::quantize;
    all.channel_sum = ops_avx512::channel_sum;
    all.combine = ops_avx512::combine;
    return all;
  }();
  return table;
}

const Ops& avx512vbmi_ops() {
  static const Ops table = [] {
    Ops all = avx512_ops();
    all.lookup = ops_avx512vbmi::lookup;
    all.lookup_pairs = ops_avx512vbmi::lookup_pairs;
    return all;
  }();
  return table;
}

}  // namespace
#endif

const Ops& ops(Isa isa) {
#if defined(ULP_X86)
  if (isa >= Isa::avx512vbmi) return avx512vbmi_ops();
  if (isa >= Isa::avx512) return avx512_ops();
  if (isa >= Isa::avx2) return avx2_ops();
#elif defined(ULP_ARM64)
  if (isa >= Isa::neon) return neon_ops();
#endif
  static_cast<void>(isa);
  return scalar_ops();
}

const RowOps& row_ops(Isa isa) {
#if defined(ULP_X86)
  if (isa >= Isa::avx512) return avx512_row_ops();
  if (isa >= Isa::avx2) return avx2_row_ops();
#endif
  static_cast<void>(isa);  // NEON is what every compiler turns the portable loops into on ARM
  return scalar_row_ops();
}

}  // namespace ulp
