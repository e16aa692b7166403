#include "tensor_map.h"

#include <cstring>

#include "machine.h"

namespace ulp::emulator {
namespace {

constexpr uint64_t kMagic = 0x7465'6e73'6f72'6d61;

constexpr int kElementBytes[] = {1, 2, 4, 4, 8, 8, 2, 4};  // by CUtensorMapDataType

}  // namespace

TensorMap decode(const CUtensorMap* map, const char* instruction) {
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0)
    fail(cudaErrorMisalignedAddress, "%s with a tensor map at %p", instruction, static_cast<const void*>(map));
  TensorMap decoded;
  memcpy(&decoded, map, sizeof decoded);
  if (decoded.magic != kMagic) fail(cudaErrorIllegalInstruction, "%s with a tensor map that was never encoded", instruction);
  return decoded;
}

uint32_t box_bytes(const TensorMap& map) {
  uint32_t bytes = map.element_bytes;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  return bytes;
}

std::vector<uint8_t> read_box(const TensorMap& map, int x, int y, uint32_t shared) {
  const uint32_t row_bytes = map.box[0] * uint32_t{map.element_bytes};
  std::vector<uint8_t> bytes(box_bytes(map));
  for (uint32_t row = 0; row < map.box[1]; ++row) {
    const int64_t source_row = int64_t{y} + row;
    for (uint32_t column = 0; column < map.box[0]; ++column) {
      const int64_t source_column = int64_t{x} + column;
      const bool inside = source_row >= 0 && source_row < static_cast<int64_t>(map.sizes[1]) && source_column >= 0 &&
                          source_column < static_cast<int64_t>(map.sizes[0]);
      if (!inside) continue;
      const uint64_t offset = static_cast<uint64_t>(source_row) * map.strides[0] + static_cast<uint64_t>(source_column) * map.element_bytes;
      const uint32_t target = swizzled(shared + row * row_bytes + column * map.element_bytes, map.swizzle) - shared;
      memcpy(&bytes[target], reinterpret_cast<const uint8_t*>(map.address) + offset, map.element_bytes);
    }
  }
  return bytes;
}

}  // namespace ulp::emulator

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes,
                                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
  using namespace ulp::emulator;
  if (device().arch < 90) return CUDA_ERROR_NOT_SUPPORTED;
  if (map == nullptr || reinterpret_cast<uintptr_t>(map) % 64 != 0 || type < CU_TENSOR_MAP_DATA_TYPE_UINT8 ||
      type > CU_TENSOR_MAP_DATA_TYPE_FLOAT32 || rank < 1 || rank > 5 || address == nullptr ||
      reinterpret_cast<uintptr_t>(address) % 16 != 0 || swizzle < CU_TENSOR_MAP_SWIZZLE_NONE || swizzle > CU_TENSOR_MAP_SWIZZLE_128B ||
      promotion < CU_TENSOR_MAP_L2_PROMOTION_NONE || promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
  TensorMap encoded{};
  encoded.magic = kMagic;
  encoded.address = reinterpret_cast<uint64_t>(address);
  encoded.rank = static_cast<uint8_t>(rank);
  encoded.element_bytes = static_cast<uint8_t>(kElementBytes[type]);
  encoded.swizzle = static_cast<uint8_t>(swizzle);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] < 1 || sizes[i] > uint64_t{1} << 32 || box[i] < 1 || box[i] > 256 || element_strides[i] < 1 || element_strides[i] > 8) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    // Not built: no kernel here skips elements.
    if (element_strides[i] != 1) return CUDA_ERROR_NOT_SUPPORTED;
    encoded.sizes[i] = sizes[i];
    encoded.box[i] = static_cast<uint16_t>(box[i]);
    encoded.element_strides[i] = static_cast<uint8_t>(element_strides[i]);
    if (i == 0) continue;
    const uint64_t stride = strides[i - 1];
    const uint64_t min_stride = i == 1 ? sizes[0] * encoded.element_bytes : strides[i - 2] * sizes[i - 1];
    if (stride % 16 != 0 || stride >= uint64_t{1} << 40 || stride < min_stride) return CUDA_ERROR_INVALID_VALUE;
    encoded.strides[i - 1] = stride;
  }
  const uint32_t inner = box[0] * encoded.element_bytes;
  if (inner % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  if (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && inner > 16u << swizzle) return CUDA_ERROR_INVALID_VALUE;
  memcpy(map, &encoded, sizeof encoded);
  return CUDA_SUCCESS;
}
