// Written by `python -m bench costs --vnni` from bench/results/kernel_costs_vnni.json. Do not edit.
//
// Femtoseconds on one thread of Intel(R) Xeon(R) Processor, 2026-11-30, fitted (bench/runs/costs_vnni.py):
// of each element of B: fixed + fixed_bit (b_bits - 1), of each tile of rows: tile + tile_bit (b_bits - 1) +
// parts kJoined[b_bits], at 8 bits + halves, and of each multiply-accumulate: mac + spill / spill_every + plane a_bits b_bits;
// of each element of A: pack; of a call: call. Beside each kernel: the median and the largest error of the fit.
#pragma once

namespace ulp {

struct CostFit {
  const char* kernel;
  double fixed, fixed_bit, tile, tile_bit, parts, halves, mac, spill, plane, pack, call;
};

inline constexpr double kJoined[] = {0.0, 0.0, 0.0, 0.75, 0.0, 3.0, 3.0, 6.0, 0.0};

// clang-format off
inline constexpr CostFit kCostFits[] = {
    {"stream_avx512vnni_4x32", 1134, 0, 4873, 0, 1885, 0, 2857, 0, 0, 89742, 671876907},  // 4%, 29%
    {"stream_avx512vnni_8x32", 2405, 0, 3336, 0, 1995, 0, 2997, 0, 0, 80638, 743772054},  // 5%, 30%
    {"dot_avx512vnni_6x64", 27605, 617, 4150, 0, 138, 0, 2203, 0, 0, 41554, 773213217},  // 6%, 41%
    {"bitserial_avx512vbmi_8x32", 1499, 25384, 0, 0, 0, 0, 0, 0, 1196, 106669, 954319244},  // 4%, 23%
    {"lut_avx512vbmi_4x128", 12914, 0, 620, 0, 0, 0, 412, 0, 533, 273047, 908830878},  // 5%, 25%
    {"mul8_avx512_6x64", 19289, 1365, 4472, 0, 323, 0, 4793, 5944, 0, 39977, 977136335},  // 3%, 40%
    {"mul16_avx512_6x64", 31239, 1840, 10481, 0, 286, 0, 10074, 0, 0, 47546, 1103602110},  // 4%, 34%
    {"lutstream_avx2_1x32", 637, 0, 4877, 0, 0, 0, 0, 0, 436, 928565, 1501257804},  // 6%, 30%
    {"stream_avx2_4x32", 0, 0, 5057, 0, 5338, 14683, 7679, 0, 103, 132749, 1467274185},  // 8%, 33%
    {"lut_avx2_3x96", 23608, 12022, 0, 6681, 0, 0, 2125, 8041, 5, 145848, 1391993315},  // 3%, 27%
    {"mul8_avx2_3x32", 22373, 2829, 1614, 0, 407, 0, 7257, 8669, 0, 33433, 1474232701},  // 3%, 37%
    {"rowpair_avx2_6x32", 17416, 338, 8992, 0, 4747, 0, 2563, 9107, 66, 123482, 1628748957},  // 7%, 24%
    {"ulppack_p1_avx2_3x32", 31170, 1783, 0, 0, 0, 0, 9070, 2617, 0, 144016, 1603464539},  // 3%, 21%
    {"ulppack_p2_avx2_3x32", 74519, 0, 0, 0, 0, 0, 26668, 12790, 0, 240262, 1637644072},  // 3%, 30%
    {"bitserial_avx2_2x32", 950, 30065, 0, 726, 0, 0, 0, 0, 4116, 145812, 1804964594},  // 7%, 43%
    {"mul16_avx2_3x32", 43532, 1246, 2200, 0, 832, 0, 14181, 0, 0, 75494, 1789242134},  // 3%, 38%
    {"mul8_scalar_4x32", 378062, 26727, 193721, 0, 43081, 0, 343446, 0, 0, 0, 2340855980},  // 5%, 47%
    {"dot_avxvnni_3x32", 27678, 1181, 6799, 0, 513, 0, 3192, 0, 0, 49156, 1075704265},  // 3%, 25%
};
// clang-format on

}  // namespace ulp
