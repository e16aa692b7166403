// Portable packing: any strided 8-bit matrix to and from the bitpacked layout.
#pragma once

#include "packed_matrix.h"

namespace ulp {

// A read-only 8-bit matrix with strides in bytes. `is_signed` says whether a byte is int8 or uint8.
struct MatrixView {
  const uint8_t* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
  bool is_signed = false;

  int value(int64_t r, int64_t c) const {
    const uint8_t byte = data[r * row_stride + c * col_stride];
    return is_signed ? static_cast<int8_t>(byte) : byte;
  }
};

// True if every element lies in the interval of `e` (and is -1 or +1 if e is bipolar). e.is_signed must equal view.is_signed.
bool in_range(const MatrixView& view, Encoding e);

// Codes of `rows` rows from `row`, written row-major with `stride` bytes per row; columns past view.cols up to `stride` get `pad`.
void encode_rows(const MatrixView& view, Encoding e, int64_t row, int64_t rows, uint8_t* out, int64_t stride, uint8_t pad);

// Sum of `count` bytes.
int64_t sum_bytes(const uint8_t* p, int64_t count);

// Precondition for pack: in_range(b, e).
PackedMatrix pack(const MatrixView& b, Encoding e);

// Takes foreign bytes of layout.nbytes(): padding is rewritten as zeros and the sums are recomputed, so nothing in them is trusted.
PackedMatrix repack(const uint8_t* data, BitpackedLayout layout, Encoding e);

// Values (int8 or uint8 as the encoding says), row-major K x N.
void unpack(const PackedMatrix& m, uint8_t* out);

// One unit of the bitpacked layout <-> eight 32-byte vectors.
void encode_unit(const uint8_t codes[kUnitCodes], int bits, uint8_t* bitpacked);
void decode_unit(const uint8_t* bitpacked, int bits, uint8_t codes[kUnitCodes]);

}  // namespace ulp
