// Which core this is, where the choice of kernels depends on it.
#pragma once

#include <cstdint>
#include <string>

namespace ulp {

struct CpuCore {
  std::string name;   // "cortex-a76"; an unknown core's MIDR as "arm-41-d0b"; "" on x86
  std::string model;  // the core whose costs come closest, "neoverse-n1"; on x86 only a core that was measured or modelled; "" where
                      // nothing is known
};

// Where a system has cores of several kinds, the strongest one. Detected once.
const CpuCore& cpu_core();

// Bytes of a core's second-level cache, from 512 KiB to 2 MiB: 512 KiB where the CPU does not say. Detected once.
int64_t second_level_bytes();

}  // namespace ulp
