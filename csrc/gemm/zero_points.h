// The algebra of epilogue.h with the numbers of one problem.
#pragma once

#include "../pack/packed_matrix.h"
#include "kernel.h"

namespace ulp {

struct Terms {
  int shift = 0;
  uint32_t s_a = 1, s_b = 1, t_a = 0;
  uint32_t t_b0 = 0;        // t_b of every column, unless it differs by column
  bool t_b_varies = false;  // then the row term is s_a * t_b[n] * X_a[m], applied tile by tile
  bool needs_row_sums = false;
  const int32_t* b_zero = nullptr;
  uint32_t t_b_base = 0;  // t_b[n] = t_b_base - b_zero[n]

  uint32_t t_b(int64_t n) const { return t_b_varies ? t_b_base - static_cast<uint32_t>(b_zero[n]) : t_b0; }
};

// b_zero: one value, or one a column where it varies; nullptr means 0.
inline Terms make_terms(Encoding ea, int32_t a_zero, const PackedMatrix& b, const int32_t* b_zero, bool b_zero_varies,
                        const KernelAtBits& kernel) {
  const Encoding eb = b.encoding;
  Terms t;
  t.s_a = static_cast<uint32_t>(ea.slope());
  t.s_b = static_cast<uint32_t>(eb.slope());
  t.shift = (ea.slope() == 2) + (eb.slope() == 2);
  t.t_a = static_cast<uint32_t>(ea.offset() + ea.slope() * kernel.centre_a) - static_cast<uint32_t>(a_zero);
  t.t_b_base = static_cast<uint32_t>(eb.offset() + eb.slope() * kernel.centre_b);
  t.b_zero = b_zero;
  t.t_b_varies = b_zero_varies;
  t.t_b0 = t.t_b_base - static_cast<uint32_t>(b_zero && !b_zero_varies ? b_zero[0] : 0);
  t.needs_row_sums = t.t_b_varies || t.t_b0 != 0;
  return t;
}

// t_a (s_b X_b[n] + K t_b[n]) for `cols` columns from n0; zero up to `width`.
inline void make_col_terms(const Terms& t, const KernelAtBits& kernel, const PackedMatrix& b, int64_t n0, int64_t cols, int64_t width,
                           int32_t* col) {
  const uint32_t* code_sums = b.code_sums.data() + n0;
  const uint32_t k = static_cast<uint32_t>(b.layout.k);
  const uint32_t per_code = t.t_a * t.s_b;
  const uint32_t fixed = t.t_a * k * (t.t_b0 - t.s_b * static_cast<uint32_t>(kernel.centre_b));
  for (int64_t j = 0; j < cols; ++j) col[j] = static_cast<int32_t>(per_code * code_sums[j] + fixed);
  if (t.t_b_varies) {
    for (int64_t j = 0; j < cols; ++j) {
      col[j] = static_cast<int32_t>(static_cast<uint32_t>(col[j]) + t.t_a * k * (t.t_b(n0 + j) - t.t_b0));
    }
  }
  for (int64_t j = cols; j < width; ++j) col[j] = 0;
}

}  // namespace ulp
