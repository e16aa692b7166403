// Packing on the device to the layout of layout.h, by the same pack_lane as on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/layout.h"
#include "cuda/unpack.cuh"
#include "pack/bits.h"

namespace ulp::cuda {

// A matrix of bytes, strides in bytes.
struct Source {
  const unsigned char* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
  bool is_signed;

  __host__ __device__ int value(int64_t row, int64_t column) const {
    const unsigned char byte = data[row * row_stride + column * column_stride];
    return is_signed ? static_cast<signed char>(byte) : byte;
  }
};

// The stored value of a weight: w' of arguments.h, but bipolar ones as 0 (+1) and 1 (-1).
__host__ __device__ inline int stored_value(Encoding e, int value) {
  if (e.bipolar()) return value < 0 ? 1 : 0;
  return e.is_signed ? value : value - (1 << (e.bits - 1));
}

__host__ __device__ inline int64_t strip_offset(const Layout& layout, int64_t strip, int64_t block) {
  const int64_t panel = strip / kPanelStrips;
  const int64_t left = layout.strips() - panel * kPanelStrips;
  const int64_t in_panel = left < kPanelStrips ? left : kPanelStrips;
  return (panel * kPanelStrips * layout.blocks() + block * in_panel + strip % kPanelStrips) * strip_bytes(layout.bits);
}

// Writes one lane's share of a strip and block to `packed`.
template <int kBits>
__host__ __device__ inline void pack_words(const Source& b, Encoding e, const Layout& layout, int64_t strip, int64_t block, int lane,
                                           unsigned char* packed) {
  const auto value = [&](int row, int k) {
    const int64_t channel = strip * kStrip + 2 * (row % 8) + row / 8;
    const int64_t at = block * kBlock + k;
    return channel < b.columns && at < b.rows ? stored_value(e, b.value(at, channel)) : 0;
  };
  const Words<kBits> words = pack_lane<kBits>(lane, value);
  unsigned char* to = packed + strip_offset(layout, strip, block);
  for (int i = 0; i < Words<kBits>::kCount; ++i) *reinterpret_cast<uint32_t*>(to + word_offset<kBits>(lane, i)) = words.word[i];
}

constexpr int kPackThreads = 256;

// One warp per strip and block.
template <int kBits>
__global__ void __launch_bounds__(kPackThreads)
    pack_weights(const __grid_constant__ Source b, Encoding e, Layout layout, unsigned char* packed) {
  const int64_t number = static_cast<int64_t>(blockIdx.x) * (kPackThreads / 32) + threadIdx.x / 32;
  if (number >= layout.strips() * layout.blocks()) return;
  pack_words<kBits>(b, e, layout, number % layout.strips(), number / layout.strips(), static_cast<int>(threadIdx.x) % 32, packed);
}

// X_w: each thread sums one column of the stored values.
__global__ void __launch_bounds__(kPackThreads) sum_columns(const __grid_constant__ Source b, Encoding e, int* sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  if (column >= b.columns) return;
  uint32_t sum = 0;
  for (int64_t row = 0; row < b.rows; ++row) {
    const int value = b.value(row, column);
    sum += static_cast<uint32_t>(e.bipolar() ? value : stored_value(e, value));
  }
  sums[column] = static_cast<int>(sum);
}

// Lowers `first` to the smallest row-by-row index of a value outside the interval of e.
__global__ void __launch_bounds__(kPackThreads) find_outside(const __grid_constant__ Source b, Encoding e, unsigned long long* first) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPackThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; at < b.rows * b.columns; at += step) {
    const int value = b.value(at / b.columns, at % b.columns);
    if (value < e.min() || value > e.max() || (e.bipolar() && value == 0)) atomicMin(first, static_cast<unsigned long long>(at));
  }
}

}  // namespace ulp::cuda
