// The arguments of the kernels: plain values and device pointers. The algebra of zero points and offsets stands here once for all kernels.
//
// A kernel sums products of stored values: acc = sum_k a' w', where a' = a - a_offset (activations whose top bit was flipped) and
// w' = w - w_offset (unsigned weights are stored minus 2^(bits-1)). With zero points a_zero and w_zero[n], X_a[m] = sum_k a and
// X_w[n] = sum_k w', all modulo 2^32 (the result itself fits int32, checked before the call):
//
//     sum_k (a - a_zero)(w - w_zero[n]) = acc  +  (a_offset - a_zero) X_w[n]  +  (w_offset - w_zero[n]) (X_a[m] - K a_zero)
//                                                 a_term                         w_term[n]               row
//
// If w_term = 0 for all n, no row sums are needed. The padding of K adds nothing, as a' or w' is zero there, except for bipolar weights
// (+1) with flipped activations (-a_offset): `padding` corrects that.
//
// The kernels of 1-bit tensor cores (planes.cuh) take a' = a unless a is bipolar; a bipolar operand has the offset 1 there. X_w of bipolar
// weights is then K less than the stored sum of their values, which `padding` corrects, too: -a_term K.
#pragma once

#include <cstdint>

#include "gemm/shape.h"

namespace ulp::cuda {

// From the exact sum to the stored result, bit for bit as on the CPU.
struct Finish {
  OutputKind kind = OutputKind::int32;
  void* out = nullptr;     // m x n of int32, float or bytes
  int64_t out_stride = 0;  // elements from row to row
  bool vectors = false;    // every row starts at a multiple of 4 elements in memory: 2 or 4 neighbours are stored at once
  int n = 0;
  int m = 0;

  int a_term = 0;
  const int* weight_sums = nullptr;  // n
  int padding = 0;

  const int* row_sums = nullptr;  // m, X_a; null if every w_term is 0
  int row_shift = 0;              // K a_zero
  int w_term = 0;                 // w_offset - w_zero, or w_offset alone with w_zeros
  const int* w_zeros = nullptr;   // n, or null

  float scale = 1;
  const float* scales = nullptr;      // n, or null: `scale` for all
  const int* bias = nullptr;          // n, before scaling
  const float* float_bias = nullptr;  // n, after scaling; float32 only
  bool relu = false;
  int low = 0;  // bounds of the quantized result minus its zero point
  int high = 0;
  int zero = 0;
};

// Of planes.cuh, for the kernels of 1-bit tensor cores.
struct Planes {
  int w_bits = 0;
  int a_bits = 0;
  bool w_negative = false;  // the top plane counts negative: two's complement
  bool a_negative = false;
  int factor = 1;  // of the sums at the end: -2 for every bipolar operand
  int stride = 0;  // bytes of a row of one plane of activations: 16 per block of k
};

struct Arguments {
  static constexpr int kLaneChannels = 4;  // neighbouring ones that a lane finishes together

  const unsigned char* a = nullptr;  // m x k bytes
  int64_t a_stride = 0;              // bytes from row to row
  bool aligned = false;              // every row starts at a multiple of 16 bytes
  int m = 0;
  int k = 0;
  const unsigned char* weights = nullptr;  // layout.h
  int n = 0;

  int shift = 0;         // right shift of the sum: 8 - bits, bipolar 6; with nibbles 4 - bits, bipolar 2
  uint32_t flip = 0;     // exclusive or on activations: 0x80808080 for unsigned 8-bit ones, 0x88888888 for unsigned nibbles
  uint32_t bipolar = 0;  // see unpack.cuh

  Planes planes;  // of 1-bit kernels; `a` and `a_stride` are then the planes of activations and planes.stride, `aligned` is true

  int splits = 1;           // of K
  int steps_per_split = 0;  // of kBlock k, for 1-bit kernels of kPlaneBlocks * kBlock; bounded by pick.cpp's max_split_k
  int stages = 2;           // of the ring of buffers in shared memory
  int* partials = nullptr;  // splits > 1, except in a cluster: [split][m][n rounded up to 2], added by reduce.cuh
  int multicast = 1;        // blocks of a cluster that share activations (gemm_sm90.cuh)
  int token_tiles = 0;      // gemm_sm90.cuh: the grid's tiles
  int channel_tiles = 0;

  Finish finish;
};

}  // namespace ulp::cuda
