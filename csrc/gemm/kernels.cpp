// THE table. A row makes a kernel selectable, tested and benchmarked; its code is <technique>_<isa>.cpp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "gemm.h"

namespace ulp {

#define ULP_KERNEL(name)      \
  namespace name {            \
  bool supports(int, int);    \
  Bound bind(int, int);       \
  }
ULP_KERNEL(mul8_scalar)
#if defined(ULP_X86)
ULP_KERNEL(mul8_avx2)
ULP_KERNEL(mul16_avx2)
ULP_KERNEL(stream_avx2)
ULP_KERNEL(lutstream_avx2)
ULP_KERNEL(lut_avx2)
#endif
#undef ULP_KERNEL

namespace {

const Kernel kKernels[] = {
// name              technique  isa             mr  nr  max_m  max_kc  supports                bind
#if defined(ULP_X86)
    {"lutstream_avx2_1x32", "lutstream", Isa::avx2, 1, 32, 2, 0, lutstream_avx2::supports, lutstream_avx2::bind},
    {"stream_avx2_2x32", "stream", Isa::avx2, 2, 32, 2, 0, stream_avx2::supports, stream_avx2::bind},
    {"lut_avx2_3x96", "lut", Isa::avx2, 3, 96, 0, 512, lut_avx2::supports, lut_avx2::bind},
    {"mul8_avx2_3x32", "mul8", Isa::avx2, 3, 32, 0, 1024, mul8_avx2::supports, mul8_avx2::bind},
    {"mul16_avx2_3x32", "mul16", Isa::avx2, 3, 32, 0, 512, mul16_avx2::supports, mul16_avx2::bind},
#endif
    {"mul8_scalar_4x8", "mul8", Isa::baseline, 4, 32, 0, 512, mul8_scalar::supports, mul8_scalar::bind},
};

}  // namespace

KernelTable kernel_table() { return {kKernels, sizeof kKernels / sizeof kKernels[0]}; }

std::vector<Ranked> rank_kernels(const Shape& s) {
  std::vector<Ranked> ranked;
  for (const Kernel& k : kernel_table()) {
    Ranked r{&k, "", std::numeric_limits<double>::quiet_NaN()};
    if (k.isa > current_isa()) r.why_not = std::string("needs ") + isa_name(k.isa);
    else if (!k.supports(s.a.bits, s.b.bits)) r.why_not = "does not cover W" + std::to_string(s.b.bits) + "A" + std::to_string(s.a.bits);
    ranked.push_back(r);
  }
  std::stable_partition(ranked.begin(), ranked.end(), [](const Ranked& r) { return r.why_not.empty(); });
  return ranked;
}

const Kernel& select_kernel(const Shape& s, const char* name) {
  std::string known;
  for (const Ranked& r : rank_kernels(s)) {
    if (!name) return *r.kernel;
    if (r.kernel->name == std::string(name)) {
      if (!r.why_not.empty()) throw std::invalid_argument(std::string("kernel '") + name + "' cannot run here: " + r.why_not);
      return *r.kernel;
    }
    known += (known.empty() ? "" : ", ") + std::string(r.kernel->name);
  }
  throw std::invalid_argument(std::string("unknown kernel '") + name + "'; known: " + known);
}

}  // namespace ulp
