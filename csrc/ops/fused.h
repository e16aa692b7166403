// The epilogue of a fused product: the exact sums of A x B, plus an int32 bias (Operands::start), scaled, and requantized where asked for.
//
//     float32      y = float(sum) * scale + float_bias                                  each operation rounded to float32; ReLU: max(y, 0)
//     quantized    y = float(sum) * scale, clamped to [qmin - zero, qmax - zero], rounded half to even, + zero; ReLU: y >= zero
//
// This is onnxruntime's MatMulInteger with requantization (MlasRequantizeOutput). It is a case of Finish (ops.h): codes are unsigned there,
// code = y - qmin, so the zero point is raised by -qmin and the stored byte is the code + qmin, modulo 256.
#pragma once

#include <limits>

#include "../gemm/shape.h"
#include "output.h"

namespace ulp {

struct Epilogue {
  OutputKind kind = OutputKind::float32;  // or quantized
  const float* scale = nullptr;           // one, or N with scale_per_column
  bool scale_per_column = false;
  const float* float_bias = nullptr;  // N; float32 output only
  bool relu = false;
  Encoding quantized{8, false};  // not bipolar
  int zero = 0;                  // one of its values
};

// Rows of the product, of n columns, go to c, `row_stride` elements apart: float32, uint8 or int8 as the epilogue says.
inline Output fused_output(const Epilogue& e, int64_t n, void* c, int64_t row_stride) {
  Output out;
  out.ops = &ops(current_isa());
  out.scale = e.scale;
  out.one_scale = !e.scale_per_column;
  out.bias = e.float_bias;
  out.low = e.relu ? 0.0f : -std::numeric_limits<float>::infinity();
  out.high = std::numeric_limits<float>::infinity();
  Target& target = out.targets[0];
  if (e.kind == OutputKind::float32) {
    target.floats = static_cast<float*>(c);
  } else {
    target.codes = static_cast<uint8_t*>(c);
    target.inverse = 1;
    target.zero = e.zero - e.quantized.min();
    target.max_code = e.quantized.levels() - 1;
    target.fits_int32 = ValueReach{largest_magnitude(e.scale, e.scale_per_column ? n : 1), 0}.fits_int32(target.inverse);
    target.offset = static_cast<uint8_t>(e.quantized.min());
    out.step = target.fits_int32 ? e.scale : nullptr;  // nothing is added and nothing multiplied behind: this is the one step
    out.step_zero = target.zero;
  }
  out.places[0].pixel = row_stride;
  out.target_count = 1;
  return out;
}

}  // namespace ulp
