// Products of codes that are made in the call, for steps that multiply by the same weights many times.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../gemm/row_product.h"
#include "checks.h"

namespace ulp {

// One matrix of weights, and what multiplies codes by it without subtracting their zero point: who reads the sums subtracts it times
// `columns` (ops/rows.h: GateSums).
struct CodeProduct {
  const PackedMatrix* weights = nullptr;
  int32_t zero = 0;
  int bits = 0;                    // of the codes
  std::vector<int32_t> columns{};  // per column the sum of its weights, less their zero point
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
    // Sums fit int32 without a zero point of the codes and with the largest one, so with all between.
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
