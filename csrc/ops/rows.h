// Work on rows of floats, between the products of a transformer: normalizations, softmax, activations, quantizers; and products of floats.
//
// Results are the same bits on every ISA: elements are computed by the same operations (a fused multiply-add rounds once everywhere), and
// sums over a row have 16 partial sums, of the elements c, c + 16, c + 32, ..., which are added by halves: lane c and lane c + 8, then 4,
// 2, 1.
#pragma once

#include "ops.h"

namespace ulp {

enum class RowFunction { identity, layer_norm, rms_norm, softmax, gelu, gelu_tanh, silu, sigmoid, tanh };

// Per row and group of `channels` channels: v = the sum of the operands in their order, then the function, then each target.
//
//     layer_norm    (v - mean) / sqrt(mean of (v - mean)^2 + epsilon) * gamma[c] + beta[c]
//     rms_norm      v / sqrt(mean of v^2 + epsilon) * gamma[c] + beta[c]
//     softmax       exp(v - max) * (1 / sum)
//     gelu          v * (1 + erf(v / sqrt(2))) / 2                     gelu_tanh: its approximation by tanh
//     silu, sigmoid, tanh
//
// Of operands `pixel` is from a row to the next, and values of floats, too, are multiplied by `scale`. The groups of a target lie side by
// side.
struct RowWork {
  Operand operands[kMaxOperands];
  int64_t group_step[kMaxOperands];
  int operand_count;
  int64_t rows;
  int64_t groups;
  int64_t channels;
  RowFunction function;
  const float* gamma;  // `channels` values, or nullptr: 1
  const float* beta;   // likewise, or nullptr: 0
  float epsilon;
  float* buffer;  // `channels` rounded up to 16
  const Target* targets;
  const float* divisors;  // as for Combination
  int target_count;
};

// Sums of a product whose rows were quantized in the call, each with a scale and a zero point of its own:
//
//     v = float(sums[m][n] - zero[m] * columns[n]) * (row_scale[m] * scale[n]) + bias[n]      each operation rounded to float32
//     v = fma(outliers[m][k], outlier_weights[k][n], v) for k = 0, 1, ...
//
// then the function, which is one of single elements, min(max(v, low), high), and each target. columns: sums over the weights' columns,
// with which sums less their zeros do not leave int32.
struct RowSums {
  const int32_t* sums;
  int64_t ld;  // elements from a row to the next
  int64_t rows;
  int64_t channels;
  const float* row_scale;
  const int32_t* zero;
  const int32_t* columns;
  const float* scale;
  const float* bias;
  RowFunction function;
  float low, high;
  const Target* targets;
  int target_count;
  int64_t outlier_count;
  const float* outliers;         // rows x outlier_count
  const float* outlier_weights;  // of the first channel
  int64_t outlier_stride;        // of the weights, from a k to the next
};

inline constexpr int kProductColumns = 16;

// out[m][n] = the sum over k, in its order, of fma(a[m][k], b[k][n]). b: k x 16, dense. out: rows of 16, `out_row` apart.
struct FloatProduct {
  const float* a;
  int64_t a_row, a_step;  // elements from a row, and a k, to the next
  const float* b;
  int64_t rows;
  int64_t depth;
  float* out;
  int64_t out_row;
};

// Sums of a product of codes with weights, `units` columns per gate, gates one behind another. A sum stands for
// float(sum - zero * columns[n]) * (unit * scale[n]), where columns[n] is the sum of column n of the weights.
struct GateSums {
  const int32_t* sums;
  const int32_t* columns;
  const float* scale;
  int32_t zero;  // of the codes
  float unit;    // their scale
};

// One step of an LSTM or a GRU, of one sequence: x[g], h[g] being the values of the sums of gate g, b[g] its biases,
//
//     lstm    v[g] = x[g] + b[g] + h[g] of i, f, g, o;  c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)
//     gru     v[g] = x[g] + b[g] + h[g] of r, z;  n = tanh(x[n] + b[n] + sigmoid(r) (h[n] + hidden_bias));  h = n + sigmoid(z) (h - n)
//
// gru_reset and gru_update are a GRU that resets h before the product: the first has `update` = sigmoid(z) and `reset` = sigmoid(r) h, of
// hidden.sums of r and z; the second n = tanh(x[n] + b[n] + h[n]) with hidden.sums of n, which come from products of `reset`.
struct GateWork {
  GateSums input;
  GateSums hidden;
  const float* bias;         // per column of the input's sums
  const float* hidden_bias;  // `units` values, or nullptr: 0
  int64_t units;
  float* state;  // h: before the step and behind it
  float* cell;   // c, likewise
  float* update;
  float* reset;
};

// A function per kind of work, as in Ops, of which the table is a part.
struct RowOps {
  // False if a code was made of a NaN; codes are in range.
  bool (*rows)(const RowWork& w);
  // code = clamp(rint(x / divisor + shift) + zero), or with a divisor of 0 rint(x * inverse + shift). False if a value is not finite; codes
  // are in range. shift is an integer, and not negative.
  bool (*quantize)(const float* x, int64_t count, const Target& target, float divisor, float shift);
  void (*product)(const FloatProduct& p);
  // False if a code was made of a NaN; codes are in range.
  bool (*sums)(const RowSums& s);
  // Least and largest of the values and 0.
  void (*range)(const float* x, int64_t count, float* low, float* high);
  void (*lstm)(const GateWork& w);
  void (*gru)(const GateWork& w);
  void (*gru_reset)(const GateWork& w);
  void (*gru_update)(const GateWork& w);
};

const RowOps& row_ops(Isa isa);

}  // namespace ulp
