#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s8_64x16(int bits) { return find_mma<MmaSmall, Unit::s8>(bits); }

}  // namespace ulp::cuda
