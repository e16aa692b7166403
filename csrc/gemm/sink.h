// Where a product's sums go.
#pragma once

#include <cstring>

#include "../pack/layout.h"

namespace ulp {

// Exact int32 sums of rows m .. m + rows - 1 and columns n .. n + cols - 1 of the result.
struct SumBlock {
  int64_t m;
  int64_t rows;
  int64_t n;
  int64_t cols;
  int32_t* sums;  // a sink may change them
  int64_t ld;     // elements from a row to the next
};

// Takes the sums of a product block by block, each element once, in any order and from several threads at a time.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void put(const SumBlock& block) const = 0;

  // Where not nullptr: an M x N matrix, columns adjacent, to which kernels store whole tiles themselves; put gets the others.
  int32_t* plain = nullptr;
  int64_t plain_stride = 0;  // elements
};

// The sums as they are.
class PlainSink final : public Sink {
 public:
  PlainSink(int32_t* c, int64_t row_stride) {
    plain = c;
    plain_stride = row_stride;
  }

  void put(const SumBlock& b) const override {
    for (int64_t r = 0; r < b.rows; ++r) {
      std::memcpy(plain + (b.m + r) * plain_stride + b.n, b.sums + r * b.ld, static_cast<size_t>(b.cols) * sizeof(int32_t));
    }
  }
};

}  // namespace ulp
