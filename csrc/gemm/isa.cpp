#include "isa.h"

#include <atomic>
#include <stdexcept>

#if defined(ULP_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif defined(ULP_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(ULP_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ulp {
namespace {

struct IsaRow {
  Isa isa;
  bool (*runs_here)();
};

bool always() { return true; }

#if defined(ULP_X86)
bool has_avx2() {
#if defined(_MSC_VER)
  int leaf1[4];
  int leaf7[4];
  __cpuid(leaf1, 1);
  __cpuidex(leaf7, 7, 0);
  const bool os_saves_ymm = (leaf1[2] & (1 << 27)) && (_xgetbv(0) & 6) == 6;
  return os_saves_ymm && (leaf1[2] & (1 << 12)) && (leaf7[1] & (1 << 5)) && (leaf7[1] & (1 << 8));
#else
  // libgcc's and compiler-rt's tables check that the OS saves the ymm state.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
}
#endif

#if defined(ULP_ARM64)
#if defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
// The kernel's numbers (arch/arm64/include/uapi/asm/hwcap.h); old C libraries lack the names.
bool has_dotprod() { return (getauxval(AT_HWCAP) & (1ul << 20)) != 0; }
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) & (1ul << 13)) != 0; }
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif
#endif

// Best first.
const IsaRow kIsas[] = {
#if defined(ULP_X86)
    {Isa::avx2, has_avx2},
#elif defined(ULP_ARM64)
    {Isa::i8mm, has_i8mm},
    {Isa::dotprod, has_dotprod},
    {Isa::neon, always},
#endif
    {Isa::baseline, always},
};

const IsaRow& detected() {
  static const IsaRow& best = []() -> const IsaRow& {
    for (const IsaRow& row : kIsas) {
      if (row.runs_here()) return row;
    }
    return kIsas[sizeof kIsas / sizeof kIsas[0] - 1];
  }();
  return best;
}

std::atomic<int> forced{-1};

std::string join(const std::vector<std::string>& names) {
  std::string s;
  for (const std::string& n : names) s += (s.empty() ? "" : ", ") + n;
  return s;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::neon:
      return "neon";
    case Isa::dotprod:
      return "dotprod";
    case Isa::i8mm:
      return "i8mm";
    case Isa::baseline:
      break;
  }
  return "baseline";
}

std::vector<std::string> known_isas() {
  std::vector<std::string> names;
  for (const IsaRow& row : kIsas) names.push_back(isa_name(row.isa));
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const IsaRow& row : kIsas) {
    if (row.isa <= detected().isa) names.push_back(isa_name(row.isa));
  }
  return names;
}

Isa current_isa() {
  const int f = forced.load(std::memory_order_relaxed);
  return f < 0 ? detected().isa : static_cast<Isa>(f);
}

void set_isa(const std::string& name) {
  for (const IsaRow& row : kIsas) {
    if (name != isa_name(row.isa)) continue;
    if (row.isa > detected().isa) {
      throw std::invalid_argument("isa '" + name + "' is not available on this CPU; available: " + join(available_isas()));
    }
    forced.store(static_cast<int>(row.isa), std::memory_order_relaxed);
    return;
  }
  throw std::invalid_argument("unknown isa '" + name + "'; known: " + join(known_isas()));
}

}  // namespace ulp
