// Codes that are made in the call: ranges of floats, and rows of floats as codes of the ranges' quantizers (plan/quantizer.h, which has
// the formulas).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/row_lanes.cuh"

namespace ulp::cuda {

__device__ inline bool is_finite(float v) { return v - v == 0.0f; }

// value = (code - zero) * scale
struct RowQuantizer {
  float scale = 1;
  int zero = 0;
};

// low, high: least and largest of the values and 0. The scale may be infinite, or a NaN.
__device__ inline RowQuantizer quantizer_of_range(float low, float high, int bits) {
  RowQuantizer q;
  const float levels = __int2float_rn((1 << bits) - 1);
  const float scale = __fdiv_rn(__fsub_rn(high, low), levels);
  if (scale == 0) return q;
  q.scale = scale;
  if (is_finite(scale)) q.zero = code_of_steps(__fsub_rn(0.0f, __fdiv_rn(low, scale)), 0, (1 << bits) - 1);
  return q;
}

// What may be taken of a quantizer's scale, so that values of sums stay in float32: scale * largest * factor + more must be finite.
struct ScaleLimit {
  float largest;
  float factor;
  float more;
  __device__ bool allows(float scale) const { return is_finite(__fadd_rn(__fmul_rn(__fmul_rn(scale, largest), factor), more)); }
};

// Pixels of a sequence that count; all without lengths.
struct Lengths {
  const float* of_images = nullptr;  // or null
  int64_t image = 0;                 // elements from one to the next
  int time = 0;

  __device__ int operator[](int64_t i) const {
    if (of_images == nullptr) return time;
    const float length = of_images[i * image];
    // What is refused is bounded here, so that nothing lies beyond the sequence.
    return length >= 0 ? min(__float2int_rn(length), time) : 0;
  }
  __device__ bool is_length(int64_t i) const {
    const float length = of_images == nullptr ? 0.0f : of_images[i * image];
    return length >= 0 && length <= __int2float_rn(time) && __int2float_rn(__float2int_rn(length)) == length;
  }
};

constexpr int kRangeThreads = 1024;  // of a range

// Least and largest of the values of each sequence, or of all images, and 0: a slot has two floats as integers, which order like the
// floats as none is negative: of the largest negated value and of the largest, 0 before.
struct RangeWork {
  int64_t count;  // slots * kRangeThreads
  const float* x;
  int64_t slot_elements;
  int channels;
  Lengths lengths;  // of slots
  int* slots;

  __device__ void operator()(int at) const {
    const int slot = at / kRangeThreads;
    const int64_t own = lengths.of_images == nullptr ? slot_elements : int64_t{lengths[slot]} * channels;
    const float* from = x + slot * slot_elements;
    float least = 0;
    float largest = 0;
    for (int64_t i = at % kRangeThreads; i < own; i += kRangeThreads) {
      least = -from[i] > least ? -from[i] : least;
      largest = from[i] > largest ? from[i] : largest;
    }
    for (int half = 16; half > 0; half /= 2) {
      const float l = __shfl_xor_sync(0xFFFFFFFFu, least, half);
      const float h = __shfl_xor_sync(0xFFFFFFFFu, largest, half);
      least = l > least ? l : least;
      largest = h > largest ? h : largest;
    }
    if (threadIdx.x % 32 != 0) return;
    if (least > 0) atomicMax(slots + 2 * slot, __float_as_int(least));
    if (largest > 0) atomicMax(slots + 2 * slot + 1, __float_as_int(largest));
  }
};

// Rows of floats as codes, 16 threads each. Codes behind the last element are 0.
struct RowCodesWork {
  int64_t rows;
  const float* x;
  int count;                    // of a row, without gaps
  const unsigned char* zeroed;  // per element other than 0 where the row has 0 instead; or null
  int stride;                   // of a row of codes
  unsigned char* codes;
  float* scales;  // per row
  int* zeros;
  int bits;
  const int* slots;  // ranges, or null: each row has its own
  Divisor rows_per_slot;
  bool shifted;  // clamp(rint(x / scale + zero)), else clamp(rint(x / scale) + zero)
  ScaleLimit limit;
  Lengths lengths;  // rows of a sequence
  Divisor time;
  int* status;

  __device__ float value(const float* row, int c) const { return zeroed != nullptr && zeroed[c] != 0 ? 0.0f : row[c]; }
};

// A sum of a row that was quantized in the call, with what belongs to it (ops/rows.h: RowSums).
struct RowSumsWork {
  int64_t count;  // rows x columns
  Divisor columns;
  const int* sums;
  const float* row_scales;
  const int* row_zeros;
  const int* column_sums;
  const float* scale;
  const float* bias;
  const float* x;  // rows of x_row floats, of which the outliers are multiplied here
  int x_row;
  int outlier_count;
  const int* outliers;
  const float* outlier_weights;  // outliers x columns
  RowFunction function;
  float low;
  float high;
  int target_count;
  Elements targets[kMaxResults];
  int* status;

  __device__ void operator()(int at) const {
    const PixelChannel own(columns, at);
    const uint32_t shift = static_cast<uint32_t>(row_zeros[own.pixel]) * static_cast<uint32_t>(column_sums[own.channel]);
    const float sum = __int2float_rn(static_cast<int>(static_cast<uint32_t>(sums[at]) - shift));
    const float factor = __fmul_rn(row_scales[own.pixel], scale[own.channel]);
    float v = __fadd_rn(__fmul_rn(sum, factor), bias[own.channel]);
    for (int k = 0; k < outlier_count; ++k) {
      const float outlier = x[static_cast<int64_t>(own.pixel) * x_row + outliers[k]];
      v = __fmaf_rn(outlier, outlier_weights[static_cast<int64_t>(k) * columns.divisor + own.channel], v);
    }
    v = element_function(function, v);
    v = v > low ? v : low;
    v = v < high ? v : high;
    for (int i = 0; i < target_count; ++i) targets[i].store(own.pixel, own.channel, v, false);
  }
};

}  // namespace ulp::cuda
