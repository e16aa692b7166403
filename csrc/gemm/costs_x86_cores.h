// Other cores with AVX-VNNI or AVX-512 beside those whose costs costs_x86_vnni.h holds: modelled, as factors to the times of one of them
// per cycle of the instruction that bounds each technique. Written by hand from throughputs in operations per cycle, measured where it
// says so (bench/NOTES.md), else assumed; `python -m ulp tune` measures the rest on a CPU at hand:
//
//                         vpdpbusd     vpermb, vpshufb   AND, vpopcntd, add    note
//     sapphire-rapids     2 zmm        1 zmm, 2 ymm      2 of 3 zmm            measured: kReferenceCore
//     icelake-server      2 zmm        1 zmm, 2 ymm      2 of 3 zmm            two multipliers of 512 bits
//     icelake-client      1 zmm        1 zmm, 2 ymm      2 of 3 zmm            the second one is missing
//     cascade-lake        2 zmm        (no VBMI), 1 ymm  (no VPOPCNTDQ)    Skylake-X, too, which has no vpdpbusd
//     zen4                1 zmm        1 zmm, 2 ymm      2 of 3 zmm            measured: has fits of its own
//     zen5                2 zmm        2 zmm, 2 ymm      4 of 3 zmm            512 bits at full width
//     alder-lake          2 ymm        2 ymm             -
//     alder-lake-e        1 ymm        1 ymm             -
//
// Clocks do not count: only ratios between the kernels of one CPU decide.
#pragma once

namespace ulp {

inline constexpr const char* kReferenceCore = "sapphire-rapids";

struct CoreFactor {
  const char* core;       // CpuCore::model
  const char* technique;  // Kernel::technique, of kernels above AVX2 only if `wide`
  bool wide;
  double factor;
};

inline constexpr CoreFactor kCoreFactors[] = {
    {"icelake-client", "dot", true, 2.0},      {"icelake-client", "stream", true, 1.5},   {"cascade-lake", "lut", false, 2.0},
    {"cascade-lake", "lutstream", false, 2.0}, {"zen5", "bitserial", true, 0.6},          {"zen5", "lut", true, 0.6},
    {"alder-lake-e", "dot", true, 2.0},        {"alder-lake-e", "mul8", false, 2.0},      {"alder-lake-e", "mul16", false, 2.0},
    {"alder-lake-e", "lut", false, 2.0},       {"alder-lake-e", "lutstream", false, 2.0}, {"alder-lake-e", "stream", false, 2.0},
    {"alder-lake-e", "rowpair", false, 2.0},   {"alder-lake-e", "bitserial", false, 2.0},
};

}  // namespace ulp
