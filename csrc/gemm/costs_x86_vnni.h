// Written by `python -m bench costs --vnni` from bench/results/kernel_costs_vnni.json. Do not edit.
//
// Femtoseconds on one thread of Intel(R) Xeon(R) Processor, 2026-11-30, fitted (bench/runs/costs_vnni.py):
// of each element of B: fixed + fixed_bit b_bits, of each tile of rows: tile + tile_bit b_bits, and of each multiply-accumulate:
// mac + spill / spill_every + plane a_bits b_bits. Beside each kernel: the median and the largest error of the fit.
#pragma once

namespace ulp {

struct CostFit {
  const char* kernel;
  double fixed, fixed_bit, tile, tile_bit, mac, spill, plane;
};

// clang-format off
inline constexpr CostFit kCostFits[] = {
    {"stream_avx512vnni_4x32", 400, 358, 7249, 201, 2750, 0, 0},  // 7%, 37%
    {"dot_avx512vnni_6x64", 20039, 1635, 7255, 0, 1837, 0, 0},  // 3%, 23%
    {"bitserial_avx512vbmi_8x32", 0, 1302, 0, 3043, 24, 0, 1263},  // 14%, 64%
    {"lut_avx512vbmi_4x128", 7152, 7152, 1505, 0, 1179, 511, 321},  // 1%, 11%
    {"lutstream_avx2_1x32", 1364, 0, 3421, 3421, 0, 0, 373},  // 6%, 18%
    {"stream_avx2_4x32", 0, 0, 5632, 1296, 7656, 0, 157},  // 10%, 49%
    {"lut_avx2_3x96", 9790, 12277, 0, 5625, 1020, 4356, 41},  // 3%, 10%
    {"mul8_avx2_3x32", 25419, 2504, 685, 0, 7746, 13066, 0},  // 3%, 37%
    {"rowpair_avx2_6x32", 6861, 1547, 24571, 900, 370, 10587, 0},  // 6%, 22%
    {"ulppack_p1_avx2_3x32", 30280, 2865, 0, 0, 9531, 4003, 4},  // 2%, 16%
    {"ulppack_p2_avx2_3x32", 67607, 771, 3222, 0, 28655, 13229, 0},  // 6%, 40%
    {"bitserial_avx2_2x32", 0, 7003, 0, 158, 0, 0, 4323},  // 7%, 54%
    {"mul16_avx2_3x32", 41044, 1799, 4420, 226, 14188, 0, 0},  // 3%, 17%
    {"mul8_scalar_4x32", 251706, 55031, 213382, 0, 329814, 0, 1600},  // 7%, 45%
    {"dot_avxvnni_3x32", 21448, 2258, 13813, 18, 1569, 0, 0},  // 3%, 31%
};
// clang-format on

}  // namespace ulp
