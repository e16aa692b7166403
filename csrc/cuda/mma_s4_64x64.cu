#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s4_64x64(int bits) { return find_mma<MmaMedium, Unit::s4>(bits); }

}  // namespace ulp::cuda
