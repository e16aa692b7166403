// The epilogue: from a kernel's accumulator over codes to the result over values.
//
// A kernel sums products of centred codes, x = u - centre. A value is v = s u + o (pack/bits.h), so, zero point z taken off,
//
//     v - z = s x + t,      t = o - z + s * centre.
//
// With the subscripts a (rows m) and b (columns n; b's zero point may differ by column), the result is
//
//     sum_k (s_a x_a + t_a)(s_b x_b + t_b) = s_a s_b sum_k x_a x_b  +  s_a t_b[n] X_a[m]  +  t_a (s_b X_b[n] + K t_b[n])
//                                            acc << shift             row term              col term
//
// where X_a, X_b are sums over k. s is 1, or 2 for bipolar operands, so s_a s_b is a shift. Where t_b is the same for all columns the row
// term is one number a row; where it is zero, which is what signed weights give on a kernel that centres them, there are no row sums to
// take. All of it is computed modulo 2^32: the final value fits int32 (checked before the run), so it is right whatever wraps on the way.
//
// Requantization follows onnxruntime's MatMulInteger + requantize (MlasRequantizeOutput): y = float(acc + bias) * scale, clamped to
// [qmin - zero, qmax - zero], rounded half to even, + zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "shape.h"

namespace ulp {

// What happens to the exact int32 result. int32: nothing but the store.
struct Epilogue {
  OutputKind kind = OutputKind::int32;
  const float* scale = nullptr;  // one, or n with scale_per_column
  bool scale_per_column = false;
  const int32_t* bias = nullptr;      // n, added before scaling
  const float* float_bias = nullptr;  // n, added after scaling; float32 output only
  bool relu = false;
  int qmin = 0;
  int qmax = 0;
  int zero = 0;

  bool fused() const { return kind != OutputKind::int32; }
};

// Adding 1.5 * 2^23 to |x| < 2^22 leaves no bits for a fraction: the FPU's own rounding, half to even, does the work, and it vectorises.
inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

// acc + bias modulo 2^32, as float.
inline float biased(int32_t acc, int32_t bias) {
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(bias)));
}

// y[i] = the quantized v[i], at the cost of v. Clamped before it is rounded, so that each fits a byte. Three loops, as GCC 12 finds control
// flow in one with both clamps.
inline void quantize(const Epilogue& e, float* v, int64_t n, uint8_t* y) {
  const float lo = static_cast<float>((e.relu && e.zero > e.qmin ? e.zero : e.qmin) - e.zero);
  const float hi = static_cast<float>(e.qmax - e.zero);
  const int zero = e.zero;
  for (int64_t i = 0; i < n; ++i) v[i] = v[i] < lo ? lo : v[i];
  for (int64_t i = 0; i < n; ++i) v[i] = v[i] > hi ? hi : v[i];
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<uint8_t>(static_cast<int>(round_half_even(v[i])) + zero);
}

// A row of `n` results that start at column n0. `out` is float32, uint8 or int8 (as a byte) according to the kind. Every loop is one
// operation without a branch, which the compiler vectorises; what is the same for a whole row is decided outside.
inline void apply_epilogue(const Epilogue& e, const int32_t* acc, int64_t n0, int64_t n, void* out) {
  constexpr int64_t kBlock = 128;
  float staged[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    const int32_t* x = acc + begin;
    const int64_t at = n0 + begin;
    float* v = e.kind == OutputKind::float32 ? static_cast<float*>(out) + begin : staged;
    if (e.bias) {
      const int32_t* bias = e.bias + at;
      for (int64_t i = 0; i < count; ++i) v[i] = biased(x[i], bias[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) v[i] = static_cast<float>(x[i]);
    }
    if (e.scale_per_column) {
      const float* scale = e.scale + at;
      for (int64_t i = 0; i < count; ++i) v[i] *= scale[i];
    } else {
      const float scale = e.scale[0];
      for (int64_t i = 0; i < count; ++i) v[i] *= scale;
    }
    if (e.kind != OutputKind::float32) {
      quantize(e, v, count, static_cast<uint8_t*>(out) + begin);
      continue;
    }
    if (e.float_bias) {
      const float* bias = e.float_bias + at;
      for (int64_t i = 0; i < count; ++i) v[i] += bias[i];
    }
    if (e.relu) {
      for (int64_t i = 0; i < count; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];
    }
  }
}

}  // namespace ulp
