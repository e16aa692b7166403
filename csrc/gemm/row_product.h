// A few rows of codes times the same weights, again and again: what a product needs besides its rows is made once.
#pragma once

#include "gemm.h"
#include "panel_loop.h"
#include "scratch.h"

namespace ulp {

class RowProduct {
 public:
  // weights, and b_zero, stay the caller's. rows: how many `run` is mostly called with. Precondition: the sums fit int32.
  RowProduct(const PackedMatrix& weights, const int32_t& b_zero, int a_bits, int64_t rows);

  const Kernel& kernel() const { return *kernel_; }
  // Elements from a row of sums to the next: N in whole units of columns.
  int64_t stride() const { return stride_; }

  // sums: rows x stride(). codes: rows of K, `row_stride` apart; no zero point is subtracted from them.
  void run(const uint8_t* codes, int64_t row_stride, int64_t rows, int32_t* sums) const;

 private:
  Problem problem_;
  const Kernel* kernel_;
  PanelLoop loop_;
  int64_t stride_;
  std::vector<int32_t> column_terms_;
  bool direct_;  // the kernel reads the packed weights where they lie, all of K at once
};

}  // namespace ulp
