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
    {"stream_avx512vnni_4x32", 256, 429, 8063, 100, 2705, 0, 0},  // 9%, 37%
    {"dot_avx512vnni_6x64", 19916, 2001, 6858, 196, 1984, 0, 0},  // 8%, 28%
    {"bitserial_avx512vbmi_8x32", 0, 2749, 0, 2036, 131, 0, 1379},  // 15%, 62%
    {"lut_avx512vbmi_4x128", 15829, 0, 338, 0, 1221, 705, 371},  // 4%, 15%
    {"dot_avxvnni_3x32", 21448, 2258, 13813, 18, 1569, 0, 0},  // 3%, 31%
    {"lutstream_avx2_1x32", 1791, 0, 7370, 0, 0, 0, 423},  // 12%, 22%
    {"stream_avx2_4x32", 0, 0, 4508, 1582, 9368, 0, 130},  // 12%, 52%
    {"lut_avx2_3x96", 7386, 14186, 0, 6642, 1338, 9151, 0},  // 5%, 17%
    {"mul8_avx2_3x32", 29079, 1844, 2760, 0, 7971, 17567, 0},  // 9%, 39%
    {"rowpair_avx2_6x32", 10204, 0, 25047, 0, 513, 12330, 0},  // 10%, 39%
    {"ulppack_p1_avx2_3x32", 27668, 1351, 0, 2581, 9875, 0, 115},  // 7%, 44%
    {"ulppack_p2_avx2_3x32", 60618, 1960, 4360, 0, 33954, 9075, 0},  // 11%, 32%
    {"bitserial_avx2_2x32", 0, 7847, 0, 1204, 0, 0, 4662},  // 11%, 55%
    {"mul16_avx2_3x32", 41235, 1541, 9448, 0, 14094, 0, 0},  // 9%, 26%
    {"mul8_scalar_4x32", 273922, 51641, 230967, 0, 355707, 0, 1643},  // 8%, 51%
};
// clang-format on

}  // namespace ulp
