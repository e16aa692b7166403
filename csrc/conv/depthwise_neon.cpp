// Depthwise convolution on NEON, 16 channels at a time.
#include <arm_neon.h>

#include "../gemm/kernel_util.h"
#include "depthwise.h"

namespace ulp::depthwise_neon {
namespace {

constexpr int kChannels = 16;  // at a time

// Sums of 16 channels of `pixels` pixels from `a` on, channel 0 of them there. Codes and weights are widened to 16 bits and their products
// gather in s32, which wraps as the contract says; the pixels share the weights.
template <int pixels>
ULP_INLINE void add_taps(const Depthwise& d, const uint8_t* a, const int8_t* weights, int32x4_t (&sum)[pixels][4]) {
  for (int t = 0; t < d.tap_count; ++t, weights += d.weight_stride) {
    const int8x16_t w = vld1q_s8(weights);
    const int16x8_t lo = vmovl_s8(vget_low_s8(w));
    const int16x8_t hi = vmovl_high_s8(w);
    ULP_UNROLL for (int p = 0; p < pixels; ++p) {
      const uint8x16_t codes = vld1q_u8(a + p * d.step + d.taps[t]);
      const int16x8_t x = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
      const int16x8_t y = vreinterpretq_s16_u16(vmovl_high_u8(codes));
      sum[p][0] = vmlal_s16(sum[p][0], vget_low_s16(x), vget_low_s16(lo));
      sum[p][1] = vmlal_high_s16(sum[p][1], x, lo);
      sum[p][2] = vmlal_s16(sum[p][2], vget_low_s16(y), vget_low_s16(hi));
      sum[p][3] = vmlal_high_s16(sum[p][3], y, hi);
    }
  }
}

// Channels c .. c + n - 1 of the pixels from `first` on.
template <int pixels>
void some_pixels(const Depthwise& d, int64_t first, int64_t c, int64_t n, const int32_t (&start)[kChannels]) {
  int32x4_t sum[pixels][4];
  ULP_UNROLL for (int p = 0; p < pixels; ++p) { ULP_UNROLL for (int i = 0; i < 4; ++i) sum[p][i] = vld1q_s32(start + 4 * i); }
  add_taps(d, d.a + first * d.step + c, d.weights + c, sum);
  ULP_UNROLL for (int p = 0; p < pixels; ++p) {
    int32_t* out = d.acc + (first + p) * d.ld + c;
    if (n == kChannels) {
      ULP_UNROLL for (int i = 0; i < 4; ++i) vst1q_s32(out + 4 * i, sum[p][i]);
    } else {
      int32_t all[kChannels];
      ULP_UNROLL for (int i = 0; i < 4; ++i) vst1q_s32(all + 4 * i, sum[p][i]);
      for (int64_t i = 0; i < n; ++i) out[i] = all[i];
    }
  }
}

}  // namespace

void run(const Depthwise& args);
void run(const Depthwise& args) {
  if (args.rows > 1) {
    for (int64_t r = 0; r < args.rows; ++r) run(row_of(args, r));
    return;
  }
  const Depthwise d = args;
  for (int64_t c = 0; c < d.channels; c += kChannels) {
    const int64_t n = d.channels - c < kChannels ? d.channels - c : kChannels;
    int32_t start[kChannels] = {};
    for (int64_t i = 0; i < n; ++i) start[i] = d.start[c + i];
    int64_t p = 0;
    for (; p + 2 <= d.pixels; p += 2) some_pixels<2>(d, p, c, n, start);
    if (p < d.pixels) some_pixels<1>(d, p, c, n, start);
  }
}

}  // namespace ulp::depthwise_neon
