#pragma once
#include <cstdint>
namespace ulp {
inline constexpr int kCostRows[] = {1, 2};
struct CostRow { const char* kernel; int a_bits; int b_bits; uint32_t fs_per_mac[2]; };
inline constexpr CostRow kCosts[] = {{"none", 0, 0, {0, 0}}};
}
