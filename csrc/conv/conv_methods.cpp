#include "conv_methods.h"

#include <stdexcept>

#include "winograd.h"

namespace ulp {

#if defined(ULP_X86)
namespace winograd_avx2 {
const WinogradKernels& kernels();
}
namespace winograd_avx512vnni {
const WinogradKernels& kernels();
}
namespace depthwise_avx2 {
void run(const Depthwise& d);
}
namespace depthwise_avx512vnni {
void run(const Depthwise& d);
}
#elif defined(ULP_ARM64)
namespace depthwise_neon {
void run(const Depthwise& d);
}
#endif
namespace depthwise_scalar {
void run(const Depthwise& d);
}

namespace {

#if defined(ULP_X86)
std::unique_ptr<Conv> make_winograd_avx2(const ConvMethod& m, const ConvProblem& p) {
  return make_winograd(p, winograd_avx2::kernels(), m.name);
}
std::unique_ptr<Conv> make_winograd_avx512vnni(const ConvMethod& m, const ConvProblem& p) {
  return make_winograd(p, winograd_avx512vnni::kernels(), m.name);
}
#else
constexpr auto make_winograd_avx2 = nullptr;
constexpr auto make_winograd_avx512vnni = nullptr;
#endif

// name, technique, ISA, reach, why_not, prospect, make; of a technique the best first
const ConvMethod kMethods[] = {
    {"winograd_avx512vnni_2x2", "winograd", Isa::avx512vnni, kWinogradReach, why_not_winograd, prospect_of_dot_winograd,
     make_winograd_avx512vnni},
    {"winograd_avx2_2x2", "winograd", Isa::avx2, kWinogradReach, why_not_winograd, prospect_of_winograd, make_winograd_avx2},
};

// name, ISA, run; best first
const DepthwiseMethod kDepthwise[] = {
#if defined(ULP_X86)
    {"depthwise_avx512vnni", Isa::avx512vnni, depthwise_avx512vnni::run},
    {"depthwise_avx2", Isa::avx2, depthwise_avx2::run},
#elif defined(ULP_ARM64)
    {"depthwise_neon", Isa::neon, depthwise_neon::run},
#endif
    {"depthwise_scalar", Isa::baseline, depthwise_scalar::run},
};

}  // namespace

ConvMethods conv_methods() { return {kMethods, sizeof kMethods / sizeof kMethods[0]}; }

int reach_of_methods(const ConvProblem& p) {
  int reach = 0;
  for (const ConvMethod& m : conv_methods()) {
    if (m.reach > reach && m.why_not(p).empty()) reach = m.reach;
  }
  return reach;
}

const ConvMethod* find_conv_method(const std::string& name) {
  const ConvMethod* found = nullptr;
  for (const ConvMethod& m : conv_methods()) {
    if (name == m.name) return &m;
    if (name == m.technique && !(found && isa_runs(found->isa))) found = &m;
  }
  return found;
}

std::string why_not(const ConvMethod& m, const ConvProblem& p) {
  const std::string reason = m.why_not(p);
  if (!reason.empty()) return reason;
  return m.make && isa_runs(m.isa) ? "" : std::string("needs ") + isa_name(m.isa);
}

void check(const ConvMethod& m, const ConvProblem& p) {
  const std::string reason = why_not(m, p);
  if (!reason.empty()) throw std::invalid_argument("method '" + std::string(m.technique) + "' cannot run here: it " + reason);
}

const DepthwiseMethod& depthwise_method() {
  const DepthwiseMethod* method = kDepthwise;
  while (!isa_runs(method->isa)) ++method;  // the last one runs everywhere
  return *method;
}

}  // namespace ulp
