// The functions of rows on a device: those of the CPU, from the same source (ops/row_functions.h), whose vector is here one of its lanes.
// Every operation rounds once, as there; a compiler joins none of them.
#pragma once

#include <cuda_runtime.h>

#include "gemm/kernel_util.h"
#include "ops/rows.h"

#undef ULP_INLINE
#undef ULP_UNROLL
#define ULP_INLINE __device__ __forceinline__
#define ULP_UNROLL _Pragma("unroll")

namespace ulp {
namespace {

struct Vector16 {
  float v;

  static ULP_INLINE Vector16 all(float x) { return {x}; }
  ULP_INLINE Vector16 operator+(Vector16 o) const { return {__fadd_rn(v, o.v)}; }
  ULP_INLINE Vector16 operator-(Vector16 o) const { return {__fsub_rn(v, o.v)}; }
  ULP_INLINE Vector16 operator*(Vector16 o) const { return {__fmul_rn(v, o.v)}; }
  ULP_INLINE Vector16 operator/(Vector16 o) const { return {__fdiv_rn(v, o.v)}; }
  ULP_INLINE Vector16 fma(Vector16 b, Vector16 c) const { return {__fmaf_rn(v, b.v, c.v)}; }
  ULP_INLINE Vector16 max(Vector16 o) const { return {v > o.v ? v : o.v}; }
  ULP_INLINE Vector16 min(Vector16 o) const { return {v < o.v ? v : o.v}; }
  ULP_INLINE Vector16 rint() const { return {__int2float_rn(__float2int_rn(v))}; }  // of values below 2^22
  // v * 2^n, n being integers of -126 .. 127.
  ULP_INLINE Vector16 times_power_of_2(Vector16 n) const { return {__fmul_rn(v, __int_as_float((__float2int_rn(n.v) + 127) << 23))}; }
  ULP_INLINE Vector16 magnitude() const { return {__int_as_float(__float_as_int(v) & 0x7FFFFFFF)}; }
  ULP_INLINE Vector16 below(Vector16 limit, Vector16 a, Vector16 b) const { return v < limit.v ? a : b; }
};

}  // namespace
}  // namespace ulp

#include "ops/row_functions.h"

namespace ulp::cuda {

// A function of single elements; of the others the value itself.
__device__ inline float element_function(RowFunction function, float value) {
  const Vector16 v{value};
  switch (function) {
    case RowFunction::gelu:
      return gelu16(v).v;
    case RowFunction::gelu_tanh:
      return gelu_tanh16(v).v;
    case RowFunction::silu:
      return silu16(v).v;
    case RowFunction::sigmoid:
      return sigmoid16(v).v;
    case RowFunction::tanh:
      return tanh16(v).v;
    default:
      return value;
  }
}

__device__ inline float exp_of(float x) { return exp16(Vector16{x}).v; }

}  // namespace ulp::cuda
