// The epilogue of a network's layer as kernels take it: plain values and device pointers. The same as on the CPU (ops/ops.h: Finish,
// Target; ops/output.h: After), bit for bit.
//
//     v = float(acc + start[c]) * scale[c] + bias[c] + float(residual - residual_zero) * residual_scale      each operation rounded
//     v = min(max(v, low), high), then each result
//
// The images of a network lie without borders on a device, so a pixel has one number for all of them: (image * height + y) * width + x.
//
// Codes lie as bytes, or as *planes*, which the 1-bit tensor cores read: [pixel][plane][16 bytes per 128 channels], plane i having bit i of
// channel c as bit c % 8 of byte c / 8. The bits behind the last channel, up to a multiple of 128, may be anything.
#pragma once

#include <cstdint>

namespace ulp::cuda {

constexpr int kMaxResults = 4;

// How codes lie: as bytes, or with `count` planes of so many bytes of a pixel.
struct CodePlanes {
  int count = 0;  // 0: bytes
  int bytes = 0;
};

// Where finished values go: codes, or floats if `codes` is null. Pointers are to the layer's first channel of pixel 0, which planes have at
// a multiple of 16.
struct Result {
  unsigned char* codes = nullptr;
  float* floats = nullptr;
  int64_t pixel = 0;  // elements from a pixel to the next; of planes bytes
  CodePlanes planes;
  float inverse = 0;  // code = clamp(rint(v * inverse) + zero, 0, max_code)
  int zero = 0;
  int max_code = 0;
  // Or, if not null: code = how many of the channel's max_code thresholds are <= (acc ^ flip[c]).
  const int* thresholds = nullptr;
  const int* flip = nullptr;
  // If not null, table[u], or table[u | w << table_bits] with w from `other`, takes the place of the code u.
  const unsigned char* table = nullptr;
  int table_bits = 0;
  const unsigned char* other = nullptr;
  int64_t other_pixel = 0;
};

struct LayerFinish {
  float one_scale = 0;
  const float* scales = nullptr;  // per channel, instead of one_scale
  const float* bias = nullptr;    // per channel, or null
  const int* start = nullptr;     // per channel, or null
  const unsigned char* residual = nullptr;
  int64_t residual_pixel = 0;
  CodePlanes residual_planes;
  float residual_scale = 0;
  int residual_zero = 0;
  float low = 0;
  float high = 0;
  int count = 0;
  Result results[kMaxResults];
};

}  // namespace ulp::cuda
