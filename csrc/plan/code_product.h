// Products of codes that are made in the call, for steps that multiply by the same weights many times.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "../gemm/row_product.h"
#include "../ops/rows.h"
#include "checks.h"

namespace ulp {

// How values become codes: values = (codes - zero) * scale.
struct Coder {
  float scale = 1.0f;
  int zero = 0;

  // Of all `count` values and 0, by the least and the largest of them. The scale may be infinite, or a NaN.
  static Coder of(const RowOps& ops, const float* x, int64_t count, int bits) {
    float low, high;
    ops.range(x, count, &low, &high);
    const float levels = static_cast<float>((1 << bits) - 1);
    const float scale = (high - low) / levels;
    if (scale == 0 || !std::isfinite(scale)) return {scale == 0 ? 1.0f : scale, 0};
    const float zero = std::nearbyint(0.0f - low / scale);
    return {scale, static_cast<int>(std::min(std::max(zero, 0.0f), levels))};
  }

  // Codes of a row of k values, of which `count` are given. divisor: as for RowOps::quantize. False if a value is not finite.
  bool encode(const RowOps& ops, const float* x, int64_t count, int64_t k, float divisor, int bits, uint8_t* to) const {
    Target t{};
    t.codes = to;
    t.inverse = 1.0f / scale;
    t.zero = zero;
    t.max_code = (1 << bits) - 1;
    const bool finite = ops.quantize(x, count, t, divisor, 0.0f);
    std::memset(to + count, zero, static_cast<size_t>(k - count));
    return finite;
  }
};

// One matrix of weights, and what multiplies codes by it, less no zero: the gates take it off.
struct CodeProduct {
  const PackedMatrix* weights = nullptr;
  int32_t zero = 0;
  int bits = 0;                    // of the codes
  std::vector<int32_t> columns{};  // sums of the weights, less their zero
  std::unique_ptr<RowProduct> rows{};

  int64_t k() const { return weights->layout.k; }
  int64_t n() const { return weights->layout.n; }

  // K = `depth` padded to a multiple of 4.
  void take(const Checks& plan, const PackedMatrix& matrix, int64_t depth, int64_t n, int32_t weight_zero, int code_bits) {
    weights = &matrix;
    zero = weight_zero;
    bits = code_bits;
    const BitpackedLayout& layout = weights->layout;
    if (layout.k != round_up(depth, 4) || layout.n != n) {
      plan.refuse(": weights have K = " + std::to_string(layout.k) + ", N = " + std::to_string(layout.n) + ", expected " +
                  std::to_string(round_up(depth, 4)) + " and " + std::to_string(n));
    }
    // No zero of the codes leaves int32, and without one sums do not, either.
    plan.sums(layout.k, bits, 0, weights->encoding, zero, {});
    plan.sums(layout.k, bits, (1 << bits) - 1, weights->encoding, zero, {});
    const Encoding e = weights->encoding;
    const uint32_t rest = static_cast<uint32_t>(layout.k) * static_cast<uint32_t>(e.offset() - zero);
    columns.clear();
    for (int64_t j = 0; j < n; ++j)
      columns.push_back(static_cast<int32_t>(static_cast<uint32_t>(e.slope()) * weights->code_sums[static_cast<size_t>(j)] + rest));
  }

  void prepare(int64_t row_count) { rows = std::make_unique<RowProduct>(*weights, zero, bits, row_count); }
};

}  // namespace ulp
