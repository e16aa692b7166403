#include "int8_schemes.h"

#include <arm_neon.h>

#include <cstddef>

namespace {

using Tile = int32x4_t[8][2];

inline void store(const Tile& tile, int32_t* c, int n) {
  for (int r = 0; r < 8; ++r) {
    vst1q_s32(c + static_cast<ptrdiff_t>(r) * n, tile[r][0]);
    vst1q_s32(c + static_cast<ptrdiff_t>(r) * n + 4, tile[r][1]);
  }
}

// QNNPACK's q8gemm 8x8: bytes widened to 16 bits, then smlal by lane: 4 products per instruction.
template <int Lane>
inline void step(Tile& tile, int16x8_t a, int16x8_t b, int row) {
  const int16x4_t half = Lane < 4 ? vget_low_s16(a) : vget_high_s16(a);
  tile[row][0] = vmlal_lane_s16(tile[row][0], vget_low_s16(b), half, Lane & 3);
  tile[row][1] = vmlal_lane_s16(tile[row][1], vget_high_s16(b), half, Lane & 3);
}

inline void column(Tile& tile, int16x8_t a, const uint8_t* b_bytes) {
  // Row r of the tile takes lane r of a: a holds one k of the eight rows.
  const int16x8_t b = vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(b_bytes)));
  step<0>(tile, a, b, 0);
  step<1>(tile, a, b, 1);
  step<2>(tile, a, b, 2);
  step<3>(tile, a, b, 3);
  step<4>(tile, a, b, 4);
  step<5>(tile, a, b, 5);
  step<6>(tile, a, b, 6);
  step<7>(tile, a, b, 7);
}

void multiply_smlal(const uint8_t* a, const uint8_t* b, int m, int n, int k, int32_t* c) {
  for (int i = 0; i < m; i += 8) {
    for (int j = 0; j < n; j += 8) {
      Tile tile = {};
      const uint8_t* pa = a + static_cast<ptrdiff_t>(i) * k;
      const uint8_t* pb = b + static_cast<ptrdiff_t>(j) * k;
      for (int p = 0; p < k; p += 2, pa += 16, pb += 16) {
        const uint8x16_t rows = vld1q_u8(pa);
        column(tile, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(rows))), pb);
        column(tile, vreinterpretq_s16_u16(vmovl_high_u8(rows)), pb + 8);
      }
      store(tile, c + static_cast<ptrdiff_t>(i) * n + j, n);
    }
  }
}

#if defined(__ARM_FEATURE_DOTPROD)
// ruy's and XNNPACK's: 4 k of a row by 4 k of four columns, 16 products per instruction. Unsigned codes of up to 7 bits are int8 already.
void multiply_sdot(const uint8_t* a, const uint8_t* b, int m, int n, int k, int32_t* c) {
  for (int i = 0; i < m; i += 8) {
    for (int j = 0; j < n; j += 8) {
      Tile tile = {};
      const int8_t* pa = reinterpret_cast<const int8_t*>(a) + static_cast<ptrdiff_t>(i) * k;
      const int8_t* pb = reinterpret_cast<const int8_t*>(b) + static_cast<ptrdiff_t>(j) * k;
      for (int p = 0; p < k; p += 4, pa += 32, pb += 32) {
        const int8x16_t low = vld1q_s8(pa);
        const int8x16_t high = vld1q_s8(pa + 16);
        for (int half = 0; half < 2; ++half) {
          const int8x16_t columns = vld1q_s8(pb + 16 * half);
          tile[0][half] = vdotq_laneq_s32(tile[0][half], columns, low, 0);
          tile[1][half] = vdotq_laneq_s32(tile[1][half], columns, low, 1);
          tile[2][half] = vdotq_laneq_s32(tile[2][half], columns, low, 2);
          tile[3][half] = vdotq_laneq_s32(tile[3][half], columns, low, 3);
          tile[4][half] = vdotq_laneq_s32(tile[4][half], columns, high, 0);
          tile[5][half] = vdotq_laneq_s32(tile[5][half], columns, high, 1);
          tile[6][half] = vdotq_laneq_s32(tile[6][half], columns, high, 2);
          tile[7][half] = vdotq_laneq_s32(tile[7][half], columns, high, 3);
        }
      }
      store(tile, c + static_cast<ptrdiff_t>(i) * n + j, n);
    }
  }
}
#endif

const Int8Scheme kSchemes[] = {
    {"smlal", 1, multiply_smlal},
#if defined(__ARM_FEATURE_DOTPROD)
    {"sdot", 4, multiply_sdot},
#endif
};

}  // namespace

const Int8Scheme* find_scheme(const std::string& name) {
  for (const Int8Scheme& scheme : kSchemes) {
    if (name == scheme.name) return &scheme;
  }
  return nullptr;
}

std::vector<uint8_t> pack_rows(const uint8_t* from, int count, int k, int row_stride, int k_stride, int depth) {
  std::vector<uint8_t> packed(static_cast<size_t>(count) * k);
  uint8_t* to = packed.data();
  for (int panel = 0; panel < count; panel += 8) {
    for (int group = 0; group < k; group += depth) {
      for (int r = panel; r < panel + 8; ++r) {
        for (int p = group; p < group + depth; ++p)
          *to++ = from[static_cast<ptrdiff_t>(r) * row_stride + static_cast<ptrdiff_t>(p) * k_stride];
      }
    }
  }
  return packed;
}
