#include "isa.h"

#include <atomic>
#include <stdexcept>

#if defined(ULP_X86)
#include "x86_features.h"
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
template <const X86Features& needed>
bool has() {
  static const X86Features here = read_x86_features();
  return here.include(needed);
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
    {Isa::avx512vbmi, has<kAvx512VbmiFeatures>},
    {Isa::avx512vnni, has<kAvx512VnniFeatures>},
    {Isa::avx512, has<kAvx512Features>},
    {Isa::avxvnni, has<kAvxVnniFeatures>},
    {Isa::avx2, has<kAvx2Features>},
#elif defined(ULP_ARM64)
    {Isa::i8mm, has_i8mm},
    {Isa::dotprod, has_dotprod},
    {Isa::neon, always},
#endif
    {Isa::baseline, always},
};

// Bit i: level i is here.
uint32_t detected() {
  static const uint32_t levels = [] {
    uint32_t bits = 0;
    for (const IsaRow& row : kIsas) bits |= row.runs_here() ? uint32_t{1} << static_cast<int>(row.isa) : 0;
    return bits;
  }();
  return levels;
}

// No kernel may use more than this level; -1: no limit.
std::atomic<int> limit{-1};

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
    case Isa::avxvnni:
      return "avxvnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512vnni:
      return "avx512vnni";
    case Isa::avx512vbmi:
      return "avx512vbmi";
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

bool isa_here(Isa isa) { return detected() >> static_cast<int>(isa) & 1; }

std::vector<std::string> known_isas() {
  std::vector<std::string> names;
  for (const IsaRow& row : kIsas) names.push_back(isa_name(row.isa));
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const IsaRow& row : kIsas) {
    if (isa_here(row.isa)) names.push_back(isa_name(row.isa));
  }
  return names;
}

int isa_limit() { return limit.load(std::memory_order_relaxed); }

bool isa_runs(Isa isa) {
  const int max_level = isa_limit();
  return (max_level < 0 || static_cast<int>(isa) <= max_level) && isa_here(isa);
}

Isa current_isa() {
  for (const IsaRow& row : kIsas) {
    if (isa_runs(row.isa)) return row.isa;
  }
  return Isa::baseline;
}

void set_isa(const std::string& name) {
  for (const IsaRow& row : kIsas) {
    if (name != isa_name(row.isa)) continue;
    if (!isa_here(row.isa)) {
      throw std::invalid_argument("isa '" + name + "' is not available on this CPU; available: " + join(available_isas()));
    }
    limit.store(static_cast<int>(row.isa), std::memory_order_relaxed);
    return;
  }
  throw std::invalid_argument("unknown isa '" + name + "'; known: " + join(known_isas()));
}

}  // namespace ulp
