// From the exact sum of one pixel and channel of a layer to its results (layer_finish.h).
#pragma once

#include <cuda_runtime.h>

#include "cuda/layer_finish.h"

namespace ulp::cuda {

// A bound replaces what is beyond it and nothing else: a NaN stays, a zero keeps its sign.
__device__ inline float bounded(float v, float low, float high) {
  const float raised = low > v ? low : v;
  return high < raised ? high : raised;
}

// The code of a value in units of the scale. The forms of the comparisons turn a NaN into the bound.
__device__ inline int code_of_steps(float steps, int zero, int max_code) {
  const float low = static_cast<float>(-zero);
  const float high = static_cast<float>(max_code - zero);
  const float raised = steps > low ? steps : low;
  return __float2int_rn(raised < high ? raised : high) + zero;
}

// The two factors that a channel has.
struct LayerChannel {
  float scale;
  float bias;
  int start;

  __device__ LayerChannel(const LayerFinish& f, int channel)
      : scale(f.scales != nullptr ? f.scales[channel] : f.one_scale),
        bias(f.bias != nullptr ? f.bias[channel] : 0.0f),
        start(f.start != nullptr ? f.start[channel] : 0) {}
};

__device__ inline int code_of_result(const Result& r, int channel, int sum, float v) {
  if (r.thresholds == nullptr) return code_of_steps(__fmul_rn(v, r.inverse), r.zero, r.max_code);
  const int* thresholds = r.thresholds + static_cast<int64_t>(channel) * r.max_code;
  const int x = sum ^ r.flip[channel];
  int code = 0;
  while (code < r.max_code && thresholds[code] <= x) ++code;
  return code;
}

// sum: without `start`.
__device__ inline void finish_layer(const LayerFinish& f, const LayerChannel& c, int64_t pixel, int channel, int sum) {
  sum += c.start;
  float v = __fmul_rn(__int2float_rn(sum), c.scale);
  if (f.bias != nullptr) v = __fadd_rn(v, c.bias);
  if (f.residual != nullptr) {
    const int code = f.residual[pixel * f.residual_pixel + channel];
    v = __fadd_rn(v, __fmul_rn(__int2float_rn(code - f.residual_zero), f.residual_scale));
  }
  v = bounded(v, f.low, f.high);
#pragma unroll
  for (int i = 0; i < kMaxResults; ++i) {
    if (i >= f.count) break;
    const Result& r = f.results[i];
    if (r.codes == nullptr) {
      r.floats[pixel * r.pixel + channel] = v;
      continue;
    }
    int code = code_of_result(r, channel, sum, v);
    if (r.table != nullptr) {
      const int other = r.other != nullptr ? r.other[pixel * r.other_pixel + channel] << r.table_bits : 0;
      code = r.table[code | other];
    }
    r.codes[pixel * r.pixel + channel] = static_cast<unsigned char>(code);
  }
}

}  // namespace ulp::cuda
