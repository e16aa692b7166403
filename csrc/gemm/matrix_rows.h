// Rows of a matrix for the panel loop: packed for the kernel some at a time, or read where they lie.
#pragma once

#include "../pack/pack.h"
#include "panel_loop.h"
#include "scratch.h"

namespace ulp {

class MatrixRows final : public RowSource {
 public:
  // max_rows: of a block. The scratch is laid out for this object.
  MatrixRows(const MatrixView& a, Encoding encoding, const PanelLoop& loop, int64_t max_rows, Scratch& scratch);

  // From here on the source is these rows of the matrix, with their row terms.
  void pack(Range block);

  Rows rows(Range r) const override;

 private:
  void encode(int64_t i, int64_t rows);
  void take_sum(const uint8_t* codes, int64_t i);

  const MatrixView& a_;
  Encoding encoding_;
  const KernelAtBits& kernel_;
  const ZeroPoints& zeros_;
  int64_t padded_k_;   // of a row of codes
  int64_t row_bytes_;  // of packed A
  bool are_codes_;     // the caller's rows are as pack_a takes them
  bool in_place_;      // the kernel reads the caller's array
  Rows rows_;
  uint8_t* packed_ = nullptr;
  uint8_t* codes_ = nullptr;
  uint8_t* transposed_ = nullptr;  // the codes, k by k, where the kernel has an excess
  int32_t* terms_ = nullptr;       // s_a * t_b0 * X_a[m], or zeros
  uint32_t* sums_ = nullptr;       // s_a * X_a[m], where there are row sums
};

}  // namespace ulp
