// THE table. A row makes a kernel selectable, tested and benchmarked; its code is <technique>_<isa>.cpp.
#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "gemm.h"

namespace ulp {

#define ULP_KERNEL(name)       \
  namespace name {             \
  extern const BitPairs pairs; \
  KernelAtBits bind(int, int); \
  }
ULP_KERNEL(mul8_scalar)
#if defined(ULP_X86)
ULP_KERNEL(mul8_avx2)
ULP_KERNEL(trim_avx2)
ULP_KERNEL(mul16_avx2)
ULP_KERNEL(stream_avx2)
ULP_KERNEL(lutstream_avx2)
ULP_KERNEL(lut_avx2)
ULP_KERNEL(rowpair_avx2)
ULP_KERNEL(ulppack_p1_avx2)
ULP_KERNEL(ulppack_p2_avx2)
ULP_KERNEL(bitserial_avx2)
ULP_KERNEL(dot_avxvnni)
ULP_KERNEL(mul8_avx512)
ULP_KERNEL(mul16_avx512)
ULP_KERNEL(dot_avx512vnni)
ULP_KERNEL(stream_avx512vnni)
namespace stream_avx512vnni {
KernelAtBits bind_8(int a_bits, int b_bits);
}
ULP_KERNEL(bitserial_avx512vbmi)
ULP_KERNEL(lut_avx512vbmi)
#elif defined(ULP_ARM64)
ULP_KERNEL(rowpair_i8mm)
ULP_KERNEL(mmla_i8mm)
ULP_KERNEL(dot_dotprod)
ULP_KERNEL(mul8_neon)
ULP_KERNEL(lut_neon)
ULP_KERNEL(mull_neon)
ULP_KERNEL(stream_neon)
ULP_KERNEL(stream_dotprod)
ULP_KERNEL(ulppack_p1_neon)
ULP_KERNEL(ulppack_p2_neon)
ULP_KERNEL(ulppack_p4_neon)
ULP_KERNEL(bitserial_neon)
ULP_KERNEL(bitserial_dotprod)
#endif
#undef ULP_KERNEL

namespace {

const Kernel kKernels[] = {
// name, technique, ISA, mr, nr, pairs, bind
#if defined(ULP_X86)
    {"stream_avx512vnni_4x32", "stream", Isa::avx512vnni, 4, 32, &stream_avx512vnni::pairs, stream_avx512vnni::bind},
    {"stream_avx512vnni_8x32", "stream", Isa::avx512vnni, 8, 32, &stream_avx512vnni::pairs, stream_avx512vnni::bind_8},
    {"dot_avx512vnni_6x64", "dot", Isa::avx512vnni, 6, 64, &dot_avx512vnni::pairs, dot_avx512vnni::bind},
    {"bitserial_avx512vbmi_8x32", "bitserial", Isa::avx512vbmi, 8, 32, &bitserial_avx512vbmi::pairs, bitserial_avx512vbmi::bind},
    {"lut_avx512vbmi_4x128", "lut", Isa::avx512vbmi, 4, 128, &lut_avx512vbmi::pairs, lut_avx512vbmi::bind},
    {"mul8_avx512_6x64", "mul8", Isa::avx512, 6, 64, &mul8_avx512::pairs, mul8_avx512::bind},
    {"mul16_avx512_6x64", "mul16", Isa::avx512, 6, 64, &mul16_avx512::pairs, mul16_avx512::bind},
    {"dot_avxvnni_3x32", "dot", Isa::avxvnni, 3, 32, &dot_avxvnni::pairs, dot_avxvnni::bind},
    {"lutstream_avx2_1x32", "lutstream", Isa::avx2, 1, 32, &lutstream_avx2::pairs, lutstream_avx2::bind},
    {"stream_avx2_4x32", "stream", Isa::avx2, 4, 32, &stream_avx2::pairs, stream_avx2::bind},
    {"lut_avx2_3x96", "lut", Isa::avx2, 3, 96, &lut_avx2::pairs, lut_avx2::bind},
    {"mul8_avx2_3x32", "mul8", Isa::avx2, 3, 32, &mul8_avx2::pairs, mul8_avx2::bind},
    {"rowpair_avx2_6x32", "rowpair", Isa::avx2, 6, 32, &rowpair_avx2::pairs, rowpair_avx2::bind},
    {"ulppack_p1_avx2_3x32", "ulppack_p1", Isa::avx2, 3, 32, &ulppack_p1_avx2::pairs, ulppack_p1_avx2::bind},
    {"ulppack_p2_avx2_3x32", "ulppack_p2", Isa::avx2, 3, 32, &ulppack_p2_avx2::pairs, ulppack_p2_avx2::bind},
    {"bitserial_avx2_2x32", "bitserial", Isa::avx2, 2, 32, &bitserial_avx2::pairs, bitserial_avx2::bind},
    {"trim_avx2_2x32", "trim", Isa::avx2, 2, 32, &trim_avx2::pairs, trim_avx2::bind},
    {"mul16_avx2_3x32", "mul16", Isa::avx2, 3, 32, &mul16_avx2::pairs, mul16_avx2::bind},
#elif defined(ULP_ARM64)
    {"rowpair_i8mm_12x32", "rowpair", Isa::i8mm, 12, 32, &rowpair_i8mm::pairs, rowpair_i8mm::bind},
    {"mmla_i8mm_6x32", "mmla", Isa::i8mm, 6, 32, &mmla_i8mm::pairs, mmla_i8mm::bind},
    {"dot_dotprod_3x32", "dot", Isa::dotprod, 3, 32, &dot_dotprod::pairs, dot_dotprod::bind},
    {"lut_neon_3x96", "lut", Isa::neon, 3, 96, &lut_neon::pairs, lut_neon::bind},
    {"mul8_neon_3x32", "mul8", Isa::neon, 3, 32, &mul8_neon::pairs, mul8_neon::bind},
    {"bitserial_dotprod_3x32", "bitserial", Isa::dotprod, 3, 32, &bitserial_dotprod::pairs, bitserial_dotprod::bind},
    {"bitserial_neon_4x32", "bitserial", Isa::neon, 4, 32, &bitserial_neon::pairs, bitserial_neon::bind},
    {"mull_neon_3x32", "mull", Isa::neon, 3, 32, &mull_neon::pairs, mull_neon::bind},
    {"ulppack_p1_neon_3x32", "ulppack_p1", Isa::neon, 3, 32, &ulppack_p1_neon::pairs, ulppack_p1_neon::bind},
    {"ulppack_p2_neon_3x32", "ulppack_p2", Isa::neon, 3, 32, &ulppack_p2_neon::pairs, ulppack_p2_neon::bind},
    {"ulppack_p4_neon_3x32", "ulppack_p4", Isa::neon, 3, 32, &ulppack_p4_neon::pairs, ulppack_p4_neon::bind},
    {"stream_dotprod_4x32", "stream", Isa::dotprod, 4, 32, &stream_dotprod::pairs, stream_dotprod::bind},
    {"stream_neon_2x32", "stream", Isa::neon, 2, 32, &stream_neon::pairs, stream_neon::bind},
#endif
    {"mul8_scalar_4x32", "mul8", Isa::baseline, 4, 32, &mul8_scalar::pairs, mul8_scalar::bind},
};

}  // namespace

KernelTable kernel_table() { return {kKernels, sizeof kKernels / sizeof kKernels[0]}; }

namespace {

std::string why_not(const Kernel& kernel, const Shape& s) {
  if (!isa_runs(kernel.isa)) return std::string("needs ") + isa_name(kernel.isa);
  if (!kernel.supports(s.a.bits, s.b.bits)) return "does not cover W" + std::to_string(s.b.bits) + "A" + std::to_string(s.a.bits);
  return "";
}

// Runs here; then by estimate; then table order.
bool preferred(const Ranked& x, const Ranked& y) {
  if (x.why_not.empty() != y.why_not.empty()) return x.why_not.empty();
  return better(x.estimate, y.estimate);
}

}  // namespace

const Kernel& find_kernel(const std::string& name) {
  std::string known;
  for (const Kernel& k : kernel_table()) {
    if (name == k.name) return k;
    known += (known.empty() ? "" : ", ") + std::string(k.name);
  }
  throw std::invalid_argument("unknown kernel '" + name + "'; known: " + known);
}

std::vector<Ranked> rank_kernels(const Shape& s) {
  const Estimator estimate(s);
  std::vector<Ranked> ranked;
  for (const Kernel& k : kernel_table()) {
    const std::string reason = why_not(k, s);
    ranked.push_back({&k, reason, reason.empty() ? estimate(k) : Estimate{std::numeric_limits<double>::quiet_NaN(), Basis::none}});
  }
  std::stable_sort(ranked.begin(), ranked.end(), preferred);
  return ranked;
}

namespace {

// The head of rank_kernels, without the list.
const Kernel& best_kernel(const Shape& s) {
  const Estimator estimate(s);
  const Kernel* best = nullptr;
  Estimate best_estimate{};
  for (const Kernel& k : kernel_table()) {
    if (!isa_runs(k.isa) || !k.supports(s.a.bits, s.b.bits)) continue;
    const Estimate e = estimate(k);
    if (best && !better(e, best_estimate)) continue;
    best = &k;
    best_estimate = e;
  }
  return *best;  // the portable kernel covers every pair
}

// The kernel chosen for a shape; valid while the limit of instruction sets and the version of the estimates are the same.
struct Choice {
  const Kernel* kernel = nullptr;
  Shape shape{};
  int limit = 0;
  uint64_t version = 0;

  bool holds(const Shape& s, int limit_now, uint64_t version_now) const {
    return kernel && limit == limit_now && version == version_now && shape.m == s.m && shape.n == s.n && shape.k == s.k &&
           shape.a.bits == s.a.bits && shape.b.bits == s.b.bits && shape.excess.one_step == s.excess.one_step &&
           shape.excess.two_steps == s.excess.two_steps && shape.packs == s.packs;
  }
};

// Estimating every kernel of the table takes long beside a small product. A thread that multiplies the same shapes again, as the
// layers of a network do, estimates each once.
constexpr uint64_t kChoices = 16;

const Kernel& chosen_kernel(const Shape& s) {
  thread_local Choice choices[kChoices];
  const int limit = isa_limit();
  const uint64_t version = estimates_version();  // before estimating: a change in between makes the choice invalid
  const auto sizes = static_cast<uint64_t>(s.m) * 3 + static_cast<uint64_t>(s.n) * 5 + static_cast<uint64_t>(s.k) * 7;
  Choice& choice = choices[(sizes ^ sizes >> 4 ^ sizes >> 8 ^ static_cast<uint64_t>(s.a.bits * 8 + s.b.bits)) % kChoices];
  if (!choice.holds(s, limit, version)) choice = {&best_kernel(s), s, limit, version};
  return *choice.kernel;
}

}  // namespace

const Kernel& select_kernel(const Shape& s, const char* name) {
  if (!name) return chosen_kernel(s);
  const Kernel& k = find_kernel(name);
  const std::string reason = why_not(k, s);
  if (!reason.empty()) throw std::invalid_argument(std::string("kernel '") + name + "' cannot run here: it " + reason);
  return k;
}

}  // namespace ulp
