#include "matrix_rows.h"

#include <algorithm>

namespace ulp {
namespace {

// Rows that are turned into codes at a time, on their way to the kernel's own layout.
constexpr int kEncodeRows = 8;

}  // namespace

MatrixRows::MatrixRows(const MatrixView& a, Encoding encoding, const PanelLoop& loop, int64_t max_rows, Scratch& scratch)
    : a_(a),
      encoding_(encoding),
      kernel_(loop.kernel()),
      zeros_(loop.zero_points()),
      padded_k_(round_up(a.cols, kUnitK)),
      row_bytes_(loop.weights().k_blocks() * kernel_.a_bytes),
      are_codes_(!encoding.is_signed && a.col_stride == 1 && a.cols % kUnitK == 0),
      in_place_(are_codes_ && !kernel_.pack_a && kernel_.centre_a == 0) {
  scratch.lay_out(scratch_array(packed_, in_place_ ? 0 : max_rows * row_bytes_),
                  scratch_array(codes_, kernel_.pack_a && !are_codes_ ? kEncodeRows * padded_k_ : 0),
                  scratch_array(transposed_, kernel_.transpose ? padded_k_ * round_up(max_rows, kExcessRows) : 0),
                  scratch_array(terms_, max_rows), scratch_array(sums_, max_rows));
}

void MatrixRows::pack(Range block) {
  first = block.begin;
  count = block.size();
  if (in_place_) {
    rows_ = {a_.data + first * a_.row_stride, a_.row_stride};
    for (int64_t i = 0; i < count; ++i) take_sum(rows_.data + i * rows_.stride, i);
  } else {
    rows_ = {packed_, row_bytes_};
    for (int64_t i = 0; i < count; i += kEncodeRows) encode(i, std::min<int64_t>(kEncodeRows, count - i));
  }
  if (kernel_.transpose) {
    kernel_.transpose(rows_.data, rows_.stride, count, padded_k_, transposed_);
    rows_.transposed = transposed_;
  }
}

Rows MatrixRows::rows(Range r) const {
  Rows rows = rows_;
  rows.data += r.begin * rows.stride;
  rows.terms = terms_ + r.begin;
  rows.sums = sums_ + r.begin;
  return rows;
}

// Rows i .. of the block.
void MatrixRows::encode(int64_t i, int64_t rows) {
  uint8_t* to = packed_ + i * row_bytes_;
  const uint8_t* codes = a_.data + (first + i) * a_.row_stride;
  int64_t stride = a_.row_stride;
  if (!are_codes_ || !kernel_.pack_a) {
    uint8_t* encoded = kernel_.pack_a ? codes_ : to;
    const uint8_t pad = static_cast<uint8_t>(kernel_.centre_a);  // x = 0: adds nothing, whatever the panel holds there
    encode_rows(a_, encoding_, first + i, rows, encoded, padded_k_, pad);
    codes = encoded;
    stride = padded_k_;
  }
  for (int64_t r = 0; r < rows; ++r) take_sum(codes + r * stride, i + r);
  if (kernel_.pack_a) kernel_.pack_a(codes, stride, static_cast<int>(rows), padded_k_, to, row_bytes_);
}

void MatrixRows::take_sum(const uint8_t* codes, int64_t i) {
  if (!zeros_.needs_row_sums) {
    terms_[i] = 0;
    return;
  }
  sums_[i] = zeros_.s_a * static_cast<uint32_t>(sum_bytes(codes, a_.cols) - a_.cols * kernel_.centre_a);
  terms_[i] = zeros_.t_b_varies ? 0 : static_cast<int32_t>(zeros_.t_b0 * sums_[i]);
}

}  // namespace ulp
