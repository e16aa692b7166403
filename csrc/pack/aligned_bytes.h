// Memory for weights, activations and scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace ulp {

struct FreeAligned {
  std::align_val_t alignment{64};
  void operator()(uint8_t* p) const { ::operator delete(p, alignment); }
};

// 64-byte aligned and not initialised, with 64 readable bytes behind the end so that a vector load may start on any stored byte. Large ones
// lie in pages of 2 MiB, where the system has them: weights that stream from memory otherwise wait for translations of addresses.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<uint8_t[], FreeAligned> data_;
  size_t size_ = 0;
};

}  // namespace ulp
