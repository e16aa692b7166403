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

__device__ inline int code_at(const unsigned char* pixel, const CodePlanes& planes, int channel) {
  if (planes.count == 0) return pixel[channel];
  const unsigned char* from = pixel + channel / 8;
  int code = 0;
  for (int i = 0; i < planes.count; ++i) code |= (from[i * planes.bytes] >> channel % 8 & 1) << i;
  return code;
}

// Sixteen neighbouring lanes store the bits of as many channels. All lanes of the warp call it.
__device__ inline void store_planes(unsigned char* pixel, const CodePlanes& planes, int channel, int code, bool there) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  unsigned char* to = pixel + channel / 8;
  for (int i = 0; i < planes.count; ++i) {
    const uint32_t bits = __ballot_sync(0xFFFFFFFFu, there && (code >> i & 1) != 0) >> (lane & 16);
    if (there && lane % 16 == 0) *reinterpret_cast<uint16_t*>(to + i * planes.bytes) = static_cast<uint16_t>(bits);
  }
}

// sum: without `start`. With kPlanes, of codes as planes, all lanes of a warp call it together with neighbouring channels, the first lane's
// being a multiple of 16; there: whether the results are stored.
template <bool kPlanes>
__device__ inline void finish_layer(const LayerFinish& f, const LayerChannel& c, int64_t pixel, int channel, int sum, bool there = true) {
  sum += c.start;
  float v = __fmul_rn(__int2float_rn(sum), c.scale);
  if (f.bias != nullptr) v = __fadd_rn(v, c.bias);
  if (f.residual != nullptr) {
    const unsigned char* from = f.residual + pixel * f.residual_pixel;
    const int code = kPlanes ? code_at(from, f.residual_planes, channel) : from[channel];
    v = __fadd_rn(v, __fmul_rn(__int2float_rn(code - f.residual_zero), f.residual_scale));
  }
  v = bounded(v, f.low, f.high);
#pragma unroll 1
  for (int i = 0; i < f.count; ++i) {
    const Result& r = f.results[i];
    if (r.codes == nullptr) {
      if (there) r.floats[pixel * r.pixel + channel] = v;
      continue;
    }
    int code = code_of_result(r, channel, sum, v);
    if (r.table != nullptr) {
      const int other = r.other != nullptr ? r.other[pixel * r.other_pixel + channel] << r.table_bits : 0;
      code = r.table[code | other];
    }
    if (kPlanes && r.planes.count != 0) {
      store_planes(r.codes + pixel * r.pixel, r.planes, channel, code, there);
    } else if (there) {
      r.codes[pixel * r.pixel + channel] = static_cast<unsigned char>(code);
    }
  }
}

}  // namespace ulp::cuda
