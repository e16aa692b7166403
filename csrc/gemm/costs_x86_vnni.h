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
    {"stream_avx512vnni_4x32", 1136, 0, 4898, 0, 1869, 123, 3009, 0, 0, 96568, 674111833},  // 5%, 44%
    {"dot_avx512vnni_6x64", 29530, 293, 3340, 0, 83, 0, 2242, 0, 0, 43124, 666911829},  // 6%, 50%
    {"bitserial_avx512vbmi_8x32", 1307, 20428, 0, 3816, 0, 0, 12, 0, 1247, 116240, 934689827},  // 5%, 25%
    {"lut_avx512vbmi_4x128", 13867, 0, 0, 0, 0, 0, 303, 0, 672, 276929, 898953050},  // 3%, 19%
    {"mul8_avx512_6x64", 21641, 1268, 2411, 0, 611, 0, 4964, 5353, 0, 58549, 889805885},  // 2%, 23%
    {"mul16_avx512_6x64", 37418, 539, 3475, 0, 884, 0, 10514, 0, 0, 87902, 943219688},  // 2%, 16%
    {"dot_avxvnni_3x32", 27800, 1127, 6880, 0, 516, 0, 3163, 0, 0, 49111, 1076364762},  // 3%, 25%
    {"lutstream_avx2_1x32", 614, 0, 5020, 0, 0, 0, 0, 0, 419, 907452, 1244989973},  // 4%, 29%
    {"stream_avx2_4x32", 0, 0, 4711, 0, 5189, 16946, 7930, 0, 96, 145403, 1368605159},  // 7%, 56%
    {"lut_avx2_3x96", 23838, 11877, 0, 6163, 0, 0, 2286, 8266, 0, 155437, 1324644069},  // 4%, 25%
    {"mul8_avx2_3x32", 23084, 2467, 1934, 0, 726, 0, 6897, 8511, 0, 52569, 1365280022},  // 3%, 25%
    {"rowpair_avx2_6x32", 18112, 1348, 7162, 0, 4712, 0, 2838, 9404, 0, 143001, 1550156758},  // 5%, 49%
    {"ulppack_p1_avx2_3x32", 29727, 2028, 0, 0, 0, 0, 9928, 2091, 0, 125243, 1562661576},  // 4%, 52%
    {"ulppack_p2_avx2_3x32", 72197, 99, 0, 0, 3006, 0, 27438, 8892, 0, 241948, 1661832671},  // 2%, 25%
    {"bitserial_avx2_2x32", 926, 30915, 0, 147, 0, 235415, 0, 0, 4160, 147032, 1784175472},  // 6%, 48%
    {"mul16_avx2_3x32", 39690, 1464, 6554, 0, 747, 230, 13482, 0, 0, 41163, 1778770359},  // 3%, 33%
    {"mul8_scalar_4x32", 376375, 9991, 253165, 0, 77219, 160460, 365275, 0, 271, 0, 2640671922},  // 7%, 50%
};
// clang-format on

}  // namespace ulp
