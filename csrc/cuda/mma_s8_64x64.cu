#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s8_64x64(int bits) { return find_mma<MmaMedium, Unit::s8>(bits); }

}  // namespace ulp::cuda
