// Scratch memory that a thread keeps between calls, handed out as typed arrays.
#pragma once

#include "../pack/packed_matrix.h"

namespace ulp {

// An array that Scratch::lay_out places: `data` is where its address goes.
template <class T>
struct ScratchArray {
  T*& data;
  int64_t count;
  int64_t bytes() const { return round_up(count * static_cast<int64_t>(sizeof(T)), 64); }
};

template <class T>
ScratchArray<T> scratch_array(T*& data, int64_t count) {
  return {data, count};
}

class Scratch {
 public:
  // Places the arrays one behind another, each on a cache line of its own; what they held before is lost. The memory grows and never
  // shrinks.
  template <class... T>
  void lay_out(const ScratchArray<T>&... arrays) {
    const int64_t total = (int64_t{0} + ... + arrays.bytes());
    if (static_cast<int64_t>(bytes_.size()) < total) bytes_ = AlignedBytes(static_cast<size_t>(total));
    uint8_t* at = bytes_.data();
    ((arrays.data = reinterpret_cast<T*>(at), at += arrays.bytes()), ...);
  }

 private:
  AlignedBytes bytes_;
};

}  // namespace ulp
