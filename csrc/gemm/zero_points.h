// Zero points and signs: from a kernel's sums over codes to the sums over values.
//
// A kernel sums products of centred codes, x = u - centre. A value is v = s u + o (pack/bits.h), so, with the zero point z taken off,
//
//     v - z = s x + t,      t = o - z + s * centre.
//
// With the subscripts a (rows m) and b (columns n; the zero point of b may differ by column), the result is
//
//     sum_k (s_a x_a + t_a)(s_b x_b + t_b) = s_a s_b sum_k x_a x_b  +  s_a t_b[n] X_a[m]  +  t_a (s_b X_b[n] + K t_b[n])
//                                            acc << shift             row term              col term
//
// where X_a, X_b are sums over k. s is 1, or 2 for bipolar operands, so s_a s_b is a shift. Where t_b is the same for all columns the row
// term is one number per row; where it is zero, as signed weights give on a kernel that centres them, no row sums are needed. All of it is
// computed modulo 2^32: the final value fits int32 (pack/bits.h: SumBound), so it is right whatever wraps on the way.
#pragma once

#include <algorithm>

#include "../pack/packed_matrix.h"
#include "kernel.h"

namespace ulp {

// What a product is made of besides the rows of A. What is pointed to belongs to the caller.
struct Operands {
  Encoding a_encoding{1, false};
  int32_t a_zero = 0;
  const PackedMatrix* b = nullptr;  // K x N
  const int32_t* b_zero = nullptr;  // one, or N with b_zero_per_column; nullptr means 0
  bool b_zero_per_column = false;
  const int32_t* start = nullptr;  // N, added to the sums modulo 2^32; nullptr means 0

  SumBound sum_bound() const {
    return {magnitude(a_encoding, a_zero), magnitude(b->encoding, b_zero, b_zero_per_column ? b->layout.n : 1)};
  }
};

// The numbers of this algebra for one product.
struct ZeroPoints {
  int shift = 0;
  uint32_t s_a = 1, s_b = 1, t_a = 0;
  uint32_t t_b0 = 0;        // t_b of every column, unless it varies
  bool t_b_varies = false;  // then the row term is s_a * t_b[n] * X_a[m], added to finished sums
  bool needs_row_sums = false;
  const int32_t* b_zero = nullptr;
  uint32_t t_b_base = 0;  // t_b[n] = t_b_base - b_zero[n]

  uint32_t t_b(int64_t n) const { return t_b_varies ? t_b_base - static_cast<uint32_t>(b_zero[n]) : t_b0; }
};

inline ZeroPoints make_zero_points(const Operands& o, const KernelAtBits& kernel) {
  const Encoding a = o.a_encoding;
  const Encoding b = o.b->encoding;
  ZeroPoints z;
  z.s_a = static_cast<uint32_t>(a.slope());
  z.s_b = static_cast<uint32_t>(b.slope());
  z.shift = (a.slope() == 2) + (b.slope() == 2);
  z.t_a = static_cast<uint32_t>(a.offset() + a.slope() * kernel.centre_a) - static_cast<uint32_t>(o.a_zero);
  z.t_b_base = static_cast<uint32_t>(b.offset() + b.slope() * kernel.centre_b);
  z.t_b_varies = o.b_zero_per_column;
  if (z.t_b_varies) z.b_zero = o.b_zero;
  z.t_b0 = z.t_b_base - static_cast<uint32_t>(o.b_zero && !z.t_b_varies ? o.b_zero[0] : 0);
  z.needs_row_sums = z.t_b_varies || z.t_b0 != 0;
  return z;
}

// Columns that go through the loops together: n0 .. n0 + cols - 1, in units of 8, the last of which may be part of the matrix only.
struct Columns {
  int64_t n0;
  int64_t cols;
  int units;
  int64_t width() const { return int64_t{units} * kUnitCols; }
};

// t_a (s_b X_b[n] + K t_b[n]) + start[n]; 0 in the columns up to the width that the matrix has not.
inline void make_col_terms(const Operands& o, const ZeroPoints& z, const KernelAtBits& kernel, Columns c, int32_t* col) {
  if (z.t_a == 0) {  // the usual case, which small products notice
    std::fill_n(col, c.width(), 0);
    if (o.start) std::copy_n(o.start + c.n0, c.cols, col);
    return;
  }
  const uint32_t* code_sums = o.b->code_sums.data() + c.n0;
  const uint32_t k = static_cast<uint32_t>(o.b->layout.k);
  const uint32_t per_code = z.t_a * z.s_b;
  const uint32_t fixed = z.t_a * k * (z.t_b0 - z.s_b * static_cast<uint32_t>(kernel.centre_b));
  for (int64_t j = 0; j < c.cols; ++j) col[j] = static_cast<int32_t>(per_code * code_sums[j] + fixed);
  if (z.t_b_varies) {
    for (int64_t j = 0; j < c.cols; ++j) {
      col[j] = static_cast<int32_t>(static_cast<uint32_t>(col[j]) + z.t_a * k * (z.t_b(c.n0 + j) - z.t_b0));
    }
  }
  if (o.start) {
    const int32_t* start = o.start + c.n0;
    for (int64_t j = 0; j < c.cols; ++j) col[j] = static_cast<int32_t>(static_cast<uint32_t>(col[j]) + static_cast<uint32_t>(start[j]));
  }
  for (int64_t j = c.cols; j < c.width(); ++j) col[j] = 0;
}

}  // namespace ulp
