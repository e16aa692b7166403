// PackedMatrix: weights in the bitpacked layout, with the column sums that zero points and signs need.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "bits.h"
#include "lane_excess.h"
#include "layout.h"

namespace ulp {

// 64-byte aligned and not initialised, with 64 readable bytes behind the end so that a vector load may start on any stored byte.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size) : size_(size) { data_.reset(static_cast<uint8_t*>(::operator new(size + 64, std::align_val_t{64}))); }
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t[], Free> data_;
  size_t size_ = 0;
};

struct PackedMatrix {
  BitpackedLayout layout;
  Encoding encoding{1, false};
  AlignedBytes data;
  LaneExcess excess;
  std::vector<uint32_t> code_sums;  // sum over k of the codes modulo 2^32, one per column

  // Sum over k of the values of a column, modulo 2^32.
  int32_t value_sum(size_t column) const {
    return static_cast<int32_t>(static_cast<uint32_t>(encoding.slope()) * code_sums[column] +
                                static_cast<uint32_t>(encoding.offset()) * static_cast<uint32_t>(layout.k));
  }
};

}  // namespace ulp
