// Products with weights in groups (gemm/grouped.h, which has the formulas): the activations as bytes, and the sums.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/network_codes.cuh"

namespace ulp::cuda {

// Groups as they lie in K on a device: each begins at a multiple of 8, with zeros behind its end.
struct DeviceGroups {
  int k = 0;
  int group = 0;
  int padded = 0;  // group rounded up to 8
  int count = 0;
};

// Bytes a, for each row and, with per_group, each group of it 16 threads: of floats with a scale of their own, or codes less a centre. The
// bytes behind groups are zero before.
struct GroupBytesWork {
  int64_t parts;  // rows x parts of a row
  Divisor parts_of_row;
  DeviceGroups groups;
  int part;                    // k of one
  const float* floats;         // rows of k
  const unsigned char* codes;  // instead of floats
  int64_t pixel;               // elements from a row to the next
  int centre;
  signed char* bytes;
  float* scales;  // per part
  int* status;
};

__global__ void __launch_bounds__(kWorkThreads) each_part_to_bytes(const __grid_constant__ GroupBytesWork w) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kWorkThreads / kRowLanes) + threadIdx.x / kRowLanes;
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int part = static_cast<int>(at < w.parts ? at : w.parts - 1);
  const int row = w.parts_of_row.quotient(part);
  const int first = w.parts_of_row.remainder(part, row) * w.part;
  const int end = min(first + w.part, w.groups.k);
  const float* x = w.floats + row * w.pixel;
  float scale = 1;
  if (w.floats != nullptr) {
    float largest = 0;
    for (int k = first + lane; k < end; k += kRowLanes) {
      const float size = x[k] < 0 ? -x[k] : x[k];
      largest = size > largest ? size : largest;
    }
    constexpr float kLeastScale = 1.17549435e-38f;
    scale = __fdiv_rn(largest_of_lanes(largest), 127.0f);
    scale = scale > kLeastScale ? scale : kLeastScale;
  }
  if (at >= w.parts) return;
  signed char* bytes = w.bytes + static_cast<int64_t>(row) * w.groups.count * w.groups.padded;
  bool finite = true;
  for (int k = first + lane; k < end; k += kRowLanes) {
    const int g = k / w.groups.group;
    const int to = g * w.groups.padded + k - g * w.groups.group;
    if (w.floats == nullptr) {
      bytes[to] = static_cast<signed char>(w.codes[row * w.pixel + k] - w.centre);
    } else {
      finite = finite && is_finite(x[k]);
      bytes[to] = static_cast<signed char>(code_of_steps(__fdiv_rn(x[k], scale), 128, 255) - 128);
    }
  }
  if (!finite) w.status[0] = 1;
  if (lane == 0 && w.floats != nullptr) w.scales[part] = scale;
}

// One element. words: of a column those of four k each, as bytes less 128; as nibbles those of eight k, of which the first four are the
// lower ones of each byte. N words lie side by side.
struct GroupedWork {
  int64_t count;  // rows x columns
  Divisor columns;
  DeviceGroups groups;
  bool nibbles;
  const int* words;
  const int* bytes;     // rows of activations
  const int* table;     // or null
  const float* scales;  // groups x N
  const float* zeros;   // or null
  int zero;
  const float* row_scales;  // or null: row_scale for all
  float row_scale;
  int scales_of_row;
  int group_scale;  // from a group's to the next: 1, or 0
  const float* bias;
  float* out;
  int64_t out_pixel;

  __device__ void operator()(int at) const {
    const PixelChannel own(columns, at);
    const int n = static_cast<int>(columns.divisor);
    const int* a = bytes + static_cast<int64_t>(own.pixel) * groups.count * (groups.padded / 4);
    const int* w = words + own.channel;
    float y = 0;
    for (int g = 0; g < groups.count; ++g) {
      int total = 0;  // of the activations
      int sum = 0;
      for (int k = 0; k < groups.padded; k += nibbles ? 8 : 4, w += n, a += nibbles ? 2 : 1) {
        total = __dp4a(*a, 0x01010101, total);
        if (nibbles) total = __dp4a(a[1], 0x01010101, total);
        if (table != nullptr) {
          for (int i = 0; i < 8; ++i) {
            const int x = static_cast<signed char>(a[i / 4] >> (8 * (i % 4)));
            sum += x * table[*w >> (8 * (i % 4) + 4 * (i / 4)) & 15];
          }
        } else if (nibbles) {
          sum = __dp4a(a[1], *w >> 4 & 0x0F0F0F0F, __dp4a(*a, *w & 0x0F0F0F0F, sum));
        } else {
          sum = __dp4a(*a, *w, sum);
        }
      }
      if (!nibbles) sum += 128 * total;
      float x = __int2float_rn(sum - zero * total);
      const int64_t of_group = static_cast<int64_t>(g) * n + own.channel;
      if (zeros != nullptr) x = __fmaf_rn(-zeros[of_group], __int2float_rn(total), x);
      const float of_row = row_scales != nullptr ? row_scales[own.pixel * scales_of_row + g * group_scale] : row_scale;
      y = __fmaf_rn(x, __fmul_rn(scales[of_group], of_row), y);
    }
    out[own.pixel * out_pixel + own.channel] = bias != nullptr ? __fadd_rn(y, bias[own.channel]) : y;
  }
};

}  // namespace ulp::cuda
