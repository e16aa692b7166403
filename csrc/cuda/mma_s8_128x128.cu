#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s8_128x128(int bits) { return find_mma<MmaLarge, Unit::s8>(bits); }

}  // namespace ulp::cuda
