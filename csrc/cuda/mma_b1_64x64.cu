#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_b1_64x64(int bits) { return find_mma<MmaPlanesMedium, Unit::b1>(bits); }

}  // namespace ulp::cuda
