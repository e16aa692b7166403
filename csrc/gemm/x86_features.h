// What an x86 CPU and its operating system offer, read by feature and not by family: hypervisors mask features, and a system that does not
// save the upper registers makes AVX-512 unusable on a CPU that has it. Freestanding, so that tools/x86 can run it on models of CPUs.
#pragma once

#include <cstdint>

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif

namespace ulp {

// Words of CPUID and the register that says which state the system saves (Intel's manual, volume 2A, CPUID; volume 1, 13.3).
struct X86Features {
  uint32_t leaf1_ecx = 0;
  uint32_t leaf7_ebx = 0;
  uint32_t leaf7_ecx = 0;
  uint32_t leaf7_1_eax = 0;  // leaf 7, subleaf 1
  uint32_t xcr0 = 0;

  constexpr bool include(const X86Features& other) const {
    return (leaf1_ecx & other.leaf1_ecx) == other.leaf1_ecx && (leaf7_ebx & other.leaf7_ebx) == other.leaf7_ebx &&
           (leaf7_ecx & other.leaf7_ecx) == other.leaf7_ecx && (leaf7_1_eax & other.leaf7_1_eax) == other.leaf7_1_eax &&
           (xcr0 & other.xcr0) == other.xcr0;
  }
};

static constexpr X86Features both(const X86Features& x, const X86Features& y) {
  return {x.leaf1_ecx | y.leaf1_ecx, x.leaf7_ebx | y.leaf7_ebx, x.leaf7_ecx | y.leaf7_ecx, x.leaf7_1_eax | y.leaf7_1_eax, x.xcr0 | y.xcr0};
}

static constexpr uint32_t feature_bit(int i) { return uint32_t{1} << i; }

// What the kernels of each level use; the flags in CMakeLists.txt say the same to the compiler.
static constexpr X86Features kAvx2Features = {
    feature_bit(12) | feature_bit(23) | feature_bit(27) | feature_bit(28),  // FMA, POPCNT, OSXSAVE, AVX
    feature_bit(3) | feature_bit(5) | feature_bit(8),                       // BMI1, AVX2, BMI2
    0,
    0,
    0x06,  // xmm, ymm
};
static constexpr X86Features kAvxVnniFeatures = both(kAvx2Features, {0, 0, 0, feature_bit(4), 0});
static constexpr X86Features kAvx512Features = both(
    kAvx2Features,
    {0, feature_bit(16) | feature_bit(17) | feature_bit(28) | feature_bit(30) | feature_bit(31), 0, 0, 0xE0});  // F DQ CD BW VL; k, zmm
static constexpr X86Features kAvx512VnniFeatures = both(kAvx512Features, {0, 0, feature_bit(11), 0, 0});
static constexpr X86Features kAvx512VbmiFeatures = both(
    kAvx512VnniFeatures, {0, 0, feature_bit(1) | feature_bit(6) | feature_bit(12) | feature_bit(14), 0, 0});  // VBMI VBMI2 BITALG VPOPCNTDQ

static inline X86Features read_x86_features() {
  X86Features f;
#if defined(_MSC_VER)
  int word[4];
  __cpuid(word, 0);
  const int leaves = word[0];
  __cpuid(word, 1);
  f.leaf1_ecx = static_cast<uint32_t>(word[2]);
  if (leaves >= 7) {
    __cpuidex(word, 7, 0);
    const int subleaves = word[0];
    f.leaf7_ebx = static_cast<uint32_t>(word[1]);
    f.leaf7_ecx = static_cast<uint32_t>(word[2]);
    if (subleaves >= 1) {
      __cpuidex(word, 7, 1);
      f.leaf7_1_eax = static_cast<uint32_t>(word[0]);
    }
  }
  if (f.leaf1_ecx & feature_bit(27)) f.xcr0 = static_cast<uint32_t>(_xgetbv(0));
#else
  uint32_t leaves, eax, ebx, ecx, edx;
  __cpuid(0, leaves, ebx, ecx, edx);
  __cpuid(1, eax, ebx, f.leaf1_ecx, edx);
  if (leaves >= 7) {
    __cpuid_count(7, 0, eax, f.leaf7_ebx, f.leaf7_ecx, edx);
    if (eax >= 1) __cpuid_count(7, 1, f.leaf7_1_eax, ebx, ecx, edx);
  }
  if (f.leaf1_ecx & feature_bit(27)) __asm__("xgetbv" : "=a"(f.xcr0), "=d"(edx) : "c"(0));
#endif
  return f;
}

// Which core it is, for what was measured on it.
struct X86Version {
  bool is_intel = false;
  bool is_amd = false;
  int family = 0;
  int model = 0;
};

static inline X86Version read_x86_version() {
  uint32_t leaf0[4] = {};
  uint32_t leaf1[4] = {};
#if defined(_MSC_VER)
  __cpuid(reinterpret_cast<int*>(leaf0), 0);
  __cpuid(reinterpret_cast<int*>(leaf1), 1);
#else
  __cpuid(0, leaf0[0], leaf0[1], leaf0[2], leaf0[3]);
  __cpuid(1, leaf1[0], leaf1[1], leaf1[2], leaf1[3]);
#endif
  X86Version v;
  v.is_intel = leaf0[2] == 0x6c65746e;  // "ntel"
  v.is_amd = leaf0[2] == 0x444d4163;    // "cAMD"
  v.family = static_cast<int>((leaf1[0] >> 8 & 0xf) + (leaf1[0] >> 20 & 0xff));
  v.model = static_cast<int>((leaf1[0] >> 4 & 0xf) | (leaf1[0] >> 12 & 0xf0));
  return v;
}

// The name of a core whose costs are known; "" for others. Models as Intel's manual (volume 4, table 2-1) and AMD's revision guides list
// them.
static inline const char* x86_core(const X86Version& cpu) {
  if (cpu.is_amd && cpu.family == 0x1a) return "zen5";
  if (cpu.is_amd && cpu.family == 0x19) return cpu.model < 0x10 || (cpu.model >= 0x20 && cpu.model < 0x60) ? "zen3" : "zen4";
  if (!cpu.is_intel || cpu.family != 6) return "";
  switch (cpu.model) {
    case 0x8f:
    case 0xcf:
      return "sapphire-rapids";
    case 0x6a:
    case 0x6c:
      return "icelake-server";
    case 0x7d:
    case 0x7e:
    case 0x8c:
    case 0x8d:
    case 0xa7:  // Ice Lake, Tiger Lake, Rocket Lake
      return "icelake-client";
    case 0x55:
      return "cascade-lake";  // and Skylake-X, which has no VNNI
    case 0x97:
    case 0x9a:
    case 0xb7:
    case 0xba:
    case 0xbf:
    case 0xaa:
    case 0xac:  // Alder Lake, Raptor Lake, Meteor Lake
      return "alder-lake";
    case 0xbe:  // only small cores
      return "alder-lake-e";
    default:
      return "";
  }
}

// One cache as leaf 4 (Intel) and leaf 0x8000001d (AMD) describe it.
static inline void read_x86_cache(uint32_t leaf, uint32_t index, uint32_t (&word)[4]) {
#if defined(_MSC_VER)
  __cpuidex(reinterpret_cast<int*>(word), static_cast<int>(leaf), static_cast<int>(index));
#else
  __cpuid_count(leaf, index, word[0], word[1], word[2], word[3]);
#endif
}

// Of the second level, for data; 0 where the CPU does not say.
static inline int64_t read_x86_second_level_bytes() {
  uint32_t word[4] = {};
  const bool is_amd = read_x86_version().is_amd;
  const uint32_t leaf = is_amd ? 0x8000001du : 4;
  read_x86_cache(is_amd ? 0x80000000u : 0, 0, word);
  if (word[0] < leaf) return 0;
  for (uint32_t i = 0; i < 8; ++i) {
    read_x86_cache(leaf, i, word);
    const uint32_t type = word[0] & 0x1f, level = word[0] >> 5 & 7;  // 1: data, 3: data and instructions
    if (type == 0) break;
    if (level != 2 || type == 2) continue;
    const int64_t line = (word[1] & 0xfff) + 1, partitions = (word[1] >> 12 & 0x3ff) + 1, ways = (word[1] >> 22) + 1;
    return line * partitions * ways * (int64_t{word[2]} + 1);
  }
  return 0;
}

}  // namespace ulp
