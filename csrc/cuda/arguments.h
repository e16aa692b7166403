// What a kernel is given: plain values and device pointers. The algebra of zero points and offsets stands here once, for every kernel.
//
// A kernel sums products of what is stored: acc = sum_k a' w', with a' = a - a_offset (activations whose top bit was flipped) and
// w' = w - w_offset (unsigned weights are stored less 2^(bits-1)). With zero points a_zero and w_zero[n], and X_a[m] = sum_k a,
// X_w[n] = sum_k w', all modulo 2^32 (the result itself fits int32, checked before the call):
//
//     sum_k (a - a_zero)(w - w_zero[n]) = acc  +  (a_offset - a_zero) X_w[n]  +  (w_offset - w_zero[n]) (X_a[m] - K a_zero)
//                                                 a_term                         w_term[n]               row
//
// Without an effective zero point of the weights (w_term = 0 for all n) no row sums are needed. Filling K up adds nothing, as either a' or
// w' is zero there, but for bipolar weights (+1) against flipped activations (-a_offset): `padding` takes that off again.
#pragma once

#include <cstdint>

#include "gemm/shape.h"

namespace ulp::cuda {

// From the exact sum to what is stored, as csrc/ops/fused.h defines it, bit for bit.
struct Finish {
  OutputKind kind = OutputKind::int32;
  void* out = nullptr;     // m x n of int32, float or bytes
  int64_t out_stride = 0;  // elements from row to row
  bool vectors = false;    // every row starts at a multiple of 4 elements in memory, so 2 or 4 neighbours can be stored at once
  int n = 0;
  int m = 0;

  int a_term = 0;
  const int* weight_sums = nullptr;  // n
  int padding = 0;

  const int* row_sums = nullptr;  // m, X_a; null where no w_term counts
  int row_shift = 0;              // K a_zero
  int w_term = 0;                 // w_offset - w_zero, or w_offset alone with w_zeros
  const int* w_zeros = nullptr;   // n, or null

  float scale = 1;
  const float* scales = nullptr;      // n, or null: `scale` for all
  const int* bias = nullptr;          // n, before scaling
  const float* float_bias = nullptr;  // n, after scaling; float32 only
  bool relu = false;
  int low = 0;  // of the quantized result, its zero point taken off
  int high = 0;
  int zero = 0;
};

struct Arguments {
  const unsigned char* a = nullptr;  // m x k bytes
  int64_t a_stride = 0;              // bytes from row to row
  bool aligned = false;              // every row starts at a multiple of 16 bytes
  int m = 0;
  int k = 0;
  const unsigned char* weights = nullptr;  // layout.h
  int n = 0;

  int shift = 0;         // of the sum, to the right: 8 - bits, bipolar 6; with nibbles 4 - bits, bipolar 2
  uint32_t flip = 0;     // exclusive or on activations: 0x80808080 where they are unsigned 8-bit ones, 0x88888888 for unsigned nibbles
  uint32_t bipolar = 0;  // see unpack.cuh

  int splits = 1;            // of K
  int blocks_per_split = 0;  // kMaxSplitK / kBlock at most
  int stages = 2;            // of the ring of buffers in shared memory
  int* partials = nullptr;   // splits > 1, except in a cluster: [split][m][n rounded up to 2], added by reduce.cuh
  int multicast = 1;         // blocks of a cluster that share activations (gemm_sm90.cuh)
  int token_tiles = 0;       // gemm_sm90.cuh: the grid's tiles
  int channel_tiles = 0;

  Finish finish;
};

}  // namespace ulp::cuda
