#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s4_64x16(int bits) { return find_mma<MmaSmall, Unit::s4>(bits); }

}  // namespace ulp::cuda
