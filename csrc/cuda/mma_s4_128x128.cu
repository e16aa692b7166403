#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_s4_128x128(int bits) { return find_mma<MmaLarge, Unit::s4>(bits); }

}  // namespace ulp::cuda
