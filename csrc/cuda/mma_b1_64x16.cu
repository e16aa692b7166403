#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_b1_64x16(int bits) { return find_mma<MmaPlanesSmall, Unit::b1>(bits); }

}  // namespace ulp::cuda
