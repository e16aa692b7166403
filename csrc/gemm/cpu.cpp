#include "cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#if defined(ULP_X86)
#include "x86_features.h"
#elif defined(ULP_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(ULP_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ulp {
namespace {

#if defined(ULP_ARM64) && defined(__linux__)

// Implementer and part number of MIDR_EL1, as Arm's reference manuals of the cores give them. The strongest come first.
struct CoreRow {
  uint32_t implementer;
  uint32_t part;
  const char* name;
  const char* model;
};

constexpr CoreRow kCores[] = {
    {0x41, 0xd4f, "neoverse-v2", "neoverse-v1"}, {0x41, 0xd40, "neoverse-v1", "neoverse-v1"}, {0x41, 0xd4e, "cortex-x3", "neoverse-v1"},
    {0x41, 0xd48, "cortex-x2", "neoverse-v1"},   {0x41, 0xd44, "cortex-x1", "neoverse-v1"},   {0x41, 0xd49, "neoverse-n2", "neoverse-n1"},
    {0x41, 0xd0c, "neoverse-n1", "neoverse-n1"}, {0x41, 0xd4d, "cortex-a715", "neoverse-n1"}, {0x41, 0xd47, "cortex-a710", "neoverse-n1"},
    {0x41, 0xd41, "cortex-a78", "neoverse-n1"},  {0x41, 0xd0d, "cortex-a77", "neoverse-n1"},  {0x41, 0xd0b, "cortex-a76", "neoverse-n1"},
    {0x61, 0x023, "apple-m1", "apple-m1"},       {0x61, 0x022, "apple-m1", "apple-m1"},       {0x41, 0xd0a, "cortex-a75", "neoverse-n1"},
    {0x41, 0xd09, "cortex-a73", "cortex-a72"},   {0x41, 0xd08, "cortex-a72", "cortex-a72"},   {0x41, 0xd07, "cortex-a57", "cortex-a72"},
    {0x41, 0xd46, "cortex-a510", "cortex-a55"},  {0x41, 0xd05, "cortex-a55", "cortex-a55"},   {0x41, 0xd03, "cortex-a53", "cortex-a53"},
};

constexpr uint64_t kHwcapCpuid = 1u << 11;  // the kernel answers reads of the ID registers

uint64_t midr_of_this_core() {
  uint64_t midr = 0;
  if (getauxval(AT_HWCAP) & kHwcapCpuid) __asm__("mrs %0, midr_el1" : "=r"(midr));
  return midr;
}

// What the kernel publishes of core `index`; false past the last one, and where it publishes nothing.
bool read_midr(int index, uint64_t* midr) {
  char path[96];
  std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/regs/identification/midr_el1", index);
  std::FILE* file = std::fopen(path, "r");
  if (!file) return false;
  unsigned long long value = 0;
  const bool read = std::fscanf(file, "%llx", &value) == 1;
  std::fclose(file);
  *midr = value;
  return read;
}

CpuCore detect() {
  constexpr size_t kUnknown = sizeof kCores / sizeof kCores[0];
  size_t best = kUnknown;
  uint64_t any = 0;
  const auto consider = [&](uint64_t midr) {
    any = midr;
    for (size_t i = 0; i < best; ++i) {
      if (kCores[i].implementer == ((midr >> 24) & 0xff) && kCores[i].part == ((midr >> 4) & 0xfff)) best = i;
    }
  };
  uint64_t midr = 0;
  int count = 0;
  while (read_midr(count, &midr)) {
    consider(midr);
    ++count;
  }
  if (count == 0) consider(midr_of_this_core());
  if (best != kUnknown) return {kCores[best].name, kCores[best].model};
  if (any == 0) return {};
  char name[16];
  std::snprintf(name, sizeof name, "arm-%02x-%03x", static_cast<unsigned>(any >> 24 & 0xff), static_cast<unsigned>(any >> 4 & 0xfff));
  return {name, ""};
}

#elif defined(ULP_ARM64) && defined(__APPLE__)

CpuCore detect() {
  char brand[64] = {};
  size_t size = sizeof brand - 1;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) != 0) return {"", "apple-m1"};
  return {brand, "apple-m1"};
}

#elif defined(ULP_X86)

// Those whose costs were measured or modelled; kernels depend on features alone (isa.h).
CpuCore detect() { return {"", x86_core(read_x86_version())}; }

#else

CpuCore detect() { return {}; }

#endif

}  // namespace

const CpuCore& cpu_core() {
  static const CpuCore& core = *new CpuCore(detect());  // never destroyed: threads may still call while the process ends
  return core;
}

int64_t second_level_bytes() {
#if defined(ULP_X86)
  static const int64_t bytes = std::clamp<int64_t>(read_x86_second_level_bytes(), 512 * 1024, 2048 * 1024);
  return bytes;
#else
  return 512 * 1024;
#endif
}

}  // namespace ulp
