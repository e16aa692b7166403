// The functions of csrc/cuda/ptx.cuh, which documents them, on the emulator. This file must be found before that one.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "instructions.h"
#include "shared_memory.h"

namespace ulp::cuda::ptx {

inline uint32_t shared_base() { return emulator::kSharedBase; }

inline uint32_t load_shared(uint32_t address) {
  uint32_t value;
  emulator::load_shared(address, &value, 1);
  return value;
}

inline uint2 load_shared2(uint32_t address) {
  uint2 value;
  emulator::load_shared(address, &value.x, 2);
  return value;
}

inline uint4 load_shared4(uint32_t address) {
  uint4 value;
  emulator::load_shared(address, &value.x, 4);
  return value;
}

inline void store_shared(uint32_t address, uint32_t value) { emulator::store_shared(address, &value, 1); }
inline void store_shared2(uint32_t address, int2 value) {
  const uint32_t words[2] = {static_cast<uint32_t>(value.x), static_cast<uint32_t>(value.y)};
  emulator::store_shared(address, words, 2);
}
inline void store_shared4(uint32_t address, uint4 value) { emulator::store_shared(address, &value.x, 4); }

inline void load_matrix4(uint32_t (&values)[4], uint32_t row) { emulator::load_matrix4(values, row); }

inline void copy_async16(uint32_t shared, const void* global, int bytes) { emulator::copy_async16(shared, global, bytes); }
inline void commit_copies() { emulator::commit_copies(); }
template <int kPending>
inline void wait_copies() {
  static_assert(kPending >= 0);
  emulator::wait_copies(kPending);
}

inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::mma_s8(d, a, b0, b1); }
inline void mma_s4(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::mma_s4(d, a, b0, b1); }
inline void mma_b1(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::mma_b1(d, a, b0, b1); }

}  // namespace ulp::cuda::ptx
