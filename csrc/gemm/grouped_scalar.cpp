// grouped, portable: any bits, any CPU. Sums are uint32, whose wrap-around is that of int32; a table's entries are multiplied as they are.
#include <cmath>
#include <cstring>

#include "../pack/pack.h"
#include "grouped_kernel.h"
#include "kernel_util.h"

namespace ulp::grouped_scalar {
namespace {

template <int bits, int planes>
void run(const GroupTile& t) {
  const int cols = t.units * kUnitCols;
  int entries[1 << bits] = {};
  for (int i = 0; i < 1 << bits; ++i) {
    entries[i] = planes == 0 ? i : planes == 1 ? t.table[0][i & 15] : t.table[0][i & 15] * 256 + t.table[1][i & 15];
  }
  for (int r = 0; r < t.rows; ++r) {
    const uint8_t* a = t.a + r * t.a_stride;
    float* c = t.c + r * kPanelCols;
    const uint8_t* b = t.b;
    for (int64_t g = 0; g < t.groups; ++g) {
      uint32_t sums[kPanelCols] = {};
      for (int64_t kb = 0; kb < t.group_blocks; ++kb, a += kUnitK) {
        for (int u = 0; u < t.units; ++u, b += bits * kVector) {
          uint8_t codes[kUnitCodes];
          decode_unit(b, bits, codes);
          for (int k = 0; k < kUnitK; ++k) {
            const int x = static_cast<int8_t>(a[k]);
            for (int i = 0; i < kUnitCols; ++i) {
              sums[u * kUnitCols + i] += static_cast<uint32_t>(x * entries[codes[k / 4 * kVector + 4 * i + k % 4]]);
            }
          }
        }
      }
      const RowGroup& of = t.row_groups[r * t.row_group_stride + g];
      for (int i = 0; i < cols; ++i) {
        const int64_t at = g * cols + i;
        float x = static_cast<float>(static_cast<int32_t>(sums[i] + static_cast<uint32_t>(of.start)));
        if (t.zeros) x = std::fma(-t.zeros[at], of.sum, x);
        c[i] = std::fma(x, t.scales[at] * of.scale, c[i]);
      }
    }
  }
}

}  // namespace

int byte_bias(int, int) { return 0; }

auto bind(int bits, int planes) -> void (*)(const GroupTile&) {
  return for_bits(bits, [planes](auto b) -> void (*)(const GroupTile&) {
    constexpr int kBits = decltype(b)::value;
    return planes == 0 ? &run<kBits, 0> : planes == 1 ? &run<kBits, 1> : &run<kBits, 2>;
  });
}

}  // namespace ulp::grouped_scalar
