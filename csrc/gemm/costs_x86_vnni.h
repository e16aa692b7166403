// Written by `python -m bench costs --vnni` from bench/results/kernel_costs_<core>.json. Do not edit.
//
// Femtoseconds on one thread, fitted (bench/runs/costs_vnni.py):
// of each element of B: fixed + fixed_bit (b_bits - 1), of each tile of rows: tile + tile_bit (b_bits - 1) +
// parts kJoined[b_bits], at 8 bits + halves, and of each multiply-accumulate: mac + mac_bit (b_bits - 1) + spill / spill_every +
// plane a_bits b_bits; of each element of A: pack; of a call: call. Beside each kernel: the fit's median and largest error.
#pragma once

namespace ulp {

struct CostFit {
  const char* core;  // CpuCore::model
  const char* kernel;
  double fixed, fixed_bit, tile, tile_bit, parts, halves, mac, mac_bit, spill, plane, pack, call;
};

inline constexpr double kJoined[] = {0.0, 0.0, 0.0, 0.75, 0.0, 3.0, 3.0, 6.0, 0.0};

// clang-format off
inline constexpr CostFit kCostFits[] = {
    // Intel(R) Xeon(R) Processor, 2026-11-30
    {"sapphire-rapids", "stream_avx512vnni_4x32", 1134, 0, 4873, 0, 1885, 0, 2857, 0, 0, 0, 89742, 671876907},  // 4%, 29%
    {"sapphire-rapids", "stream_avx512vnni_8x32", 2405, 0, 3336, 0, 1995, 0, 2997, 0, 0, 0, 80638, 743772054},  // 5%, 30%
    {"sapphire-rapids", "dot_avx512vnni_6x64", 27605, 617, 4150, 0, 138, 0, 2203, 0, 0, 0, 41554, 773213217},  // 6%, 41%
    {"sapphire-rapids", "bitserial_avx512vbmi_8x32", 1499, 25384, 0, 0, 0, 0, 0, 0, 0, 1196, 106669, 954319244},  // 4%, 23%
    {"sapphire-rapids", "lut_avx512vbmi_4x128", 13410, 16306, 80, 0, 0, 0, 1234, 1207, 853, 0, 271266, 907100796},  // 4%, 23%
    {"sapphire-rapids", "mul8_avx512_6x64", 19289, 1365, 4472, 0, 323, 0, 4793, 0, 5944, 0, 39977, 977136335},  // 3%, 40%
    {"sapphire-rapids", "mul16_avx512_6x64", 31239, 1840, 10481, 0, 286, 0, 10074, 0, 0, 0, 47546, 1103602110},  // 4%, 34%
    {"sapphire-rapids", "lutstream_avx2_1x32", 637, 0, 4877, 0, 0, 0, 0, 0, 0, 436, 928565, 1501257804},  // 6%, 30%
    {"sapphire-rapids", "stream_avx2_4x32", 0, 0, 5057, 0, 5338, 14683, 7679, 0, 0, 103, 132749, 1467274185},  // 8%, 33%
    {"sapphire-rapids", "lut_avx2_3x96", 23621, 15297, 0, 0, 0, 0, 2125, 2248, 8165, 0, 146044, 1391756940},  // 4%, 27%
    {"sapphire-rapids", "mul8_avx2_3x32", 22373, 2829, 1614, 0, 407, 0, 7257, 0, 8669, 0, 33433, 1474232701},  // 3%, 37%
    {"sapphire-rapids", "rowpair_avx2_6x32", 17416, 338, 8992, 0, 4747, 0, 2563, 0, 9107, 66, 123482, 1628748957},  // 7%, 24%
    {"sapphire-rapids", "ulppack_p1_avx2_3x32", 31170, 1783, 0, 0, 0, 0, 9070, 0, 2617, 0, 144016, 1603464539},  // 3%, 21%
    {"sapphire-rapids", "ulppack_p2_avx2_3x32", 74519, 0, 0, 0, 0, 0, 26668, 0, 12790, 0, 240262, 1637644072},  // 3%, 30%
    {"sapphire-rapids", "bitserial_avx2_2x32", 960, 30182, 0, 0, 0, 0, 0, 408, 0, 4110, 145704, 1805663067},  // 7%, 43%
    {"sapphire-rapids", "mul16_avx2_3x32", 43532, 1246, 2200, 0, 832, 0, 14181, 0, 0, 0, 75494, 1789242134},  // 3%, 38%
    {"sapphire-rapids", "mul8_scalar_4x32", 378062, 26727, 193721, 0, 43081, 0, 343446, 0, 0, 0, 0, 2340855980},  // 5%, 47%
    {"sapphire-rapids", "dot_avxvnni_3x32", 27678, 1181, 6799, 0, 513, 0, 3192, 0, 0, 0, 49156, 1075704265},  // 3%, 25%
    // AMD EPYC, 2026-12-01
    {"zen4", "stream_avx512vnni_4x32", 419, 421, 3691, 0, 1286, 863, 3410, 0, 0, 0, 95001, 613279134},  // 5%, 28%
    {"zen4", "stream_avx512vnni_8x32", 0, 455, 3262, 0, 1024, 1133, 3891, 0, 0, 0, 62816, 723908583},  // 6%, 44%
    {"zen4", "dot_avx512vnni_6x64", 11210, 1112, 2566, 0, 111, 0, 4002, 0, 0, 0, 61613, 711585353},  // 3%, 17%
    {"zen4", "bitserial_avx512vbmi_8x32", 611, 17480, 587, 0, 0, 0, 132, 10, 0, 925, 97428, 939413460},  // 4%, 24%
    {"zen4", "lut_avx512vbmi_4x128", 6675, 6133, 0, 368, 0, 0, 677, 554, 1373, 0, 191116, 902269569},  // 3%, 25%
    {"zen4", "mul8_avx512_6x64", 13318, 269, 4, 0, 744, 0, 5990, 0, 5732, 2, 64431, 856500280},  // 2%, 15%
    {"zen4", "mul16_avx512_6x64", 25284, 1604, 3253, 0, 167, 333, 11026, 5, 0, 0, 70256, 927111376},  // 2%, 20%
    {"zen4", "lutstream_avx2_1x32", 90, 0, 3705, 0, 0, 0, 0, 0, 0, 372, 677258, 1140368074},  // 8%, 30%
    {"zen4", "stream_avx2_4x32", 992, 0, 1762, 0, 4334, 11688, 5676, 0, 0, 118, 164093, 1204294366},  // 7%, 35%
    {"zen4", "lut_avx2_3x96", 18177, 9473, 0, 0, 0, 0, 1568, 1492, 6806, 0, 122984, 1199576253},  // 3%, 23%
    {"zen4", "mul8_avx2_3x32", 12422, 1454, 223, 0, 408, 0, 5534, 0, 5850, 0, 70019, 1198152944},  // 3%, 21%
    {"zen4", "rowpair_avx2_6x32", 6636, 0, 8729, 0, 4798, 0, 1759, 0, 7052, 0, 126488, 1346460638},  // 6%, 31%
    {"zen4", "ulppack_p1_avx2_3x32", 22186, 301, 0, 0, 0, 0, 8308, 0, 0, 0, 152408, 1355130495},  // 3%, 21%
    {"zen4", "ulppack_p2_avx2_3x32", 38503, 1657, 0, 0, 1327, 0, 18373, 0, 0, 0, 229553, 1348335196},  // 3%, 12%
    {"zen4", "bitserial_avx2_2x32", 1255, 17101, 345, 0, 0, 0, 0, 214, 0, 2684, 148469, 1507137144},  // 6%, 28%
    {"zen4", "mul16_avx2_3x32", 25569, 1781, 0, 0, 378, 0, 11343, 0, 0, 0, 85085, 1436989957},  // 2%, 21%
    {"zen4", "mul8_scalar_4x32", 276162, 17000, 282928, 0, 35803, 0, 306838, 0, 0, 0, 26474, 1736113701},  // 3%, 25%
};
// clang-format on

}  // namespace ulp
