// A decoded CUtensorMap, and the copy of one of its boxes.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

namespace ulp::emulator {

struct TensorMap {
  uint64_t magic;
  uint64_t address;
  uint64_t strides[4];  // bytes, of dimensions 1 ...
  uint64_t sizes[5];
  uint16_t box[5];
  uint8_t element_strides[5];
  uint8_t rank;
  uint8_t element_bytes;
  uint8_t swizzle;
  uint8_t reserved[22];
};
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

// Decodes a kernel's parameter; faults if it was never encoded.
TensorMap decode(const CUtensorMap* map, const char* instruction);

// Bytes of a box.
uint32_t box_bytes(const TensorMap& map);

// The bytes of the box at (x, y) of a two-dimensional map, in their order in shared memory from `shared` on.
std::vector<uint8_t> read_box(const TensorMap& map, int x, int y, uint32_t shared);

// The physical place of a shared address under a swizzle of 32, 64 or 128 bytes (1, 2, 3): units of 16 bytes are permuted within a row by
// the number of the row.
constexpr uint32_t swizzled(uint32_t address, int mode) { return address ^ (((address >> 7) & ((1u << mode) - 1)) << 4); }

}  // namespace ulp::emulator
