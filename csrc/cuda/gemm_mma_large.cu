#include "cuda/gemm_mma.cuh"

namespace ulp::cuda {

MmaKernel mma_large(bool nibbles, int bits) { return find_mma<MmaLarge>(nibbles, bits); }

}  // namespace ulp::cuda
