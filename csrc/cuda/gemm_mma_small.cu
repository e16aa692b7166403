#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_small(bool nibbles, int bits) { return find_mma<MmaSmall>(nibbles, bits); }

}  // namespace ulp::cuda
