// Rows of floats in the registers of 16 threads each, as ops/rows.h adds them up.
#pragma once

#include <cuda_runtime.h>

#include "cuda/network_work.cuh"
#include "cuda/row_functions.cuh"

namespace ulp::cuda {

// Threads of a row, which hold its partial sums: thread i those of the elements i, i + 16, ...
constexpr int kRowLanes = 16;

// The sum over the lanes of a row, by halves as ops/rows.h says. Every lane has it.
__device__ inline float sum_of_lanes(float v) {
  for (int half = kRowLanes / 2; half > 0; half /= 2) v = __fadd_rn(v, __shfl_xor_sync(0xFFFFFFFFu, v, half));
  return v;
}

__device__ inline float largest_of_lanes(float v) {
  for (int half = kRowLanes / 2; half > 0; half /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, v, half);
    v = other > v ? other : v;
  }
  return v;
}

}  // namespace ulp::cuda
