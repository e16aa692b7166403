// The end of every kernel: from exact sums to the stored result, for a few neighbouring channels of one row at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arguments.h"
#include "cuda/ptx.cuh"

namespace ulp::cuda {

// What does not depend on the row, for kCount (1, 2 or 4) channels: read once for all rows that a lane finishes.
template <int kCount>
struct Channels {
  int first;  // a multiple of kCount
  int count;  // that exist: 0 ... kCount
  uint32_t term[kCount];
  uint32_t w_term[kCount];
  float scale[kCount];
  float float_bias[kCount];

  // Unsigned here and below: intermediate sums may wrap, the result fits.
  __device__ Channels(const Finish& f, int first_channel) : first(first_channel), count(max(0, min(kCount, f.n - first_channel))) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int c = first + (i < count ? i : 0);
      term[i] = static_cast<uint32_t>(f.padding);
      w_term[i] = static_cast<uint32_t>(f.w_term);
      scale[i] = f.scale;
      float_bias[i] = 0;
      if (count == 0) continue;
      if (f.a_term != 0) term[i] += static_cast<uint32_t>(f.a_term) * static_cast<uint32_t>(f.weight_sums[c]);
      if (f.bias != nullptr) term[i] += static_cast<uint32_t>(f.bias[c]);
      if (f.w_zeros != nullptr) w_term[i] -= static_cast<uint32_t>(f.w_zeros[c]);
      if (f.scales != nullptr) scale[i] = f.scales[c];
      if (f.float_bias != nullptr) float_bias[i] = f.float_bias[c];
    }
  }
};

// The row's factor of w_term: X_a[m] - K a_zero.
__device__ inline uint32_t row_term(const Finish& f, int row) {
  return f.row_sums != nullptr ? static_cast<uint32_t>(f.row_sums[row]) - static_cast<uint32_t>(f.row_shift) : 0;
}

__device__ inline float finish_float(const Finish& f, float scaled, float bias) {
  const float v = f.float_bias != nullptr ? __fadd_rn(scaled, bias) : scaled;
  return f.relu && v < 0.0f ? 0.0f : v;
}

// Clamped before rounding, as on the CPU, so that the rounded value fits.
__device__ inline uint32_t finish_code(const Finish& f, float scaled) {
  const float low = static_cast<float>(f.low);
  const float high = static_cast<float>(f.high);
  float v = scaled < low ? low : scaled;
  v = v > high ? high : v;
  return static_cast<uint32_t>(__float2int_rn(v) + f.zero) & 0xFF;
}

// acc[i] = sum_k a' w' of channel c.first + i and the row, which exists.
template <int kCount>
__device__ inline void finish(const Finish& f, const Channels<kCount>& c, int row, const int (&acc)[kCount]) {
  static_assert(kCount == 2 || kCount == 4);
  const uint32_t row_part = row_term(f, row);
  uint32_t value[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    value[i] = static_cast<uint32_t>(acc[i]) + c.term[i] + row_part * c.w_term[i];
    if (f.kind == OutputKind::int32) continue;
    const float scaled = __fmul_rn(__int2float_rn(static_cast<int>(value[i])), c.scale[i]);
    value[i] = f.kind == OutputKind::float32 ? __float_as_uint(finish_float(f, scaled, c.float_bias[i])) : finish_code(f, scaled);
  }
  const int64_t at = row * f.out_stride + c.first;
  const bool vector = f.vectors && c.count == kCount;
  if (f.kind == OutputKind::quantized) {
    unsigned char* out = static_cast<unsigned char*>(f.out) + at;
    if (!vector) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < c.count) out[i] = static_cast<unsigned char>(value[i]);
      }
    } else if constexpr (kCount == 2) {
      *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(value[0] | value[1] << 8);
    } else {
      *reinterpret_cast<uint32_t*>(out) = value[0] | value[1] << 8 | value[2] << 16 | value[3] << 24;
    }
    return;
  }
  uint32_t* out = static_cast<uint32_t*>(f.out) + at;
  if (!vector) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < c.count) out[i] = value[i];
    }
  } else if constexpr (kCount == 2) {
    *reinterpret_cast<uint2*>(out) = make_uint2(value[0], value[1]);
  } else {
    *reinterpret_cast<uint4*>(out) = make_uint4(value[0], value[1], value[2], value[3]);
  }
}

// What a kernel calls for the neighbouring channels that a lane finishes, of which some or all may not exist; other kinds of arguments have
// their own. All lanes of a warp call finish_lane together; rows from p.m on do not exist.
__device__ inline Channels<4> lane_channels(const Arguments& p, int channel) { return Channels<4>(p.finish, channel); }
__device__ inline void finish_lane(const Arguments& p, const Channels<4>& c, int row, const int (&acc)[4]) {
  if (c.count > 0 && row < p.m) finish(p.finish, c, row, acc);
}

// The sums of a lane in shared memory.
__device__ inline void load_sums(uint32_t at, int (&sum)[4]) {
  const uint4 word = ptx::load_shared4(at);
  sum[0] = static_cast<int>(word.x);
  sum[1] = static_cast<int>(word.y);
  sum[2] = static_cast<int>(word.z);
  sum[3] = static_cast<int>(word.w);
}
__device__ inline void load_sums(uint32_t at, int (&sum)[1]) { sum[0] = static_cast<int>(ptx::load_shared(at)); }

}  // namespace ulp::cuda
