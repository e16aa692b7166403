#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_b1_128x128(int bits) { return find_mma<MmaLarge, Unit::b1>(bits); }

}  // namespace ulp::cuda
